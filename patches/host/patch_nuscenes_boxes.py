"""nuScenes' camera metric sends its boxes to CUDA before non-maximum suppression."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anybev.device import current_backend

_CLASSES = 10  # detection classes of nuScenes


def replace(original: Callable[..., Any]) -> Callable[..., Any]:
    """``nusc_box_to_cam_box3d`` on the device in use instead of ``.cuda()``; the same numbers."""
    del original

    def nusc_box_to_cam_box3d(boxes: list[Any]) -> tuple[Any, Tensor, Tensor]:
        from mmdet3d.structures import CameraInstance3DBoxes

        device = torch.device(current_backend().device_type)

        def tensor(rows: list[Any], columns: int) -> Tensor:
            table = np.asarray(rows, dtype=np.float64).reshape(-1, columns)
            return torch.from_numpy(table).float()

        length_height_width = tensor([box.wlh for box in boxes], 3)[:, [1, 2, 0]]
        yaw = tensor([box.orientation.yaw_pitch_roll[0] for box in boxes], 1)
        columns = (
            tensor([box.center for box in boxes], 3),
            length_height_width,
            -yaw,
            tensor([box.velocity[0::2] for box in boxes], 2),
        )
        cam_boxes = CameraInstance3DBoxes(
            torch.cat(columns, dim=1).to(device), box_dim=9, origin=(0.5, 0.5, 0.5)
        )
        scores = tensor([box.score for box in boxes], 1)[:, 0].to(device)
        labels = torch.tensor([box.label for box in boxes], dtype=torch.int64, device=device)
        # The column after the classes is the background's.
        nms_scores = scores.new_zeros(len(boxes), _CLASSES + 1)
        nms_scores[torch.arange(len(boxes), device=device), labels] = scores
        return cam_boxes, nms_scores, labels

    return nusc_box_to_cam_box3d
