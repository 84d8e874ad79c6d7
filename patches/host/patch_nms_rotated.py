"""mmcv's rotated suppression turns the caller's own boxes into degrees where they are on an NPU."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from anybev.patches.ext.boxes_nms import kept_rotated
from anybev.patches.ext.boxes_rotated import rotated_rectangles

Suppress = Callable[..., tuple[Tensor, Tensor | None]]


def replace(original: Suppress) -> Suppress:
    """``nms_rotated`` that leaves its input alone on every device.

    For an NPU upstream multiplies the angles in place, box by box, because the vendor's kernel
    takes degrees: the caller's boxes and the returned ones are in degrees afterwards. There
    AnyBEV's operator, which takes radians, is called, and the boxes come back as given; labels are
    not looked at, as on CUDA and the CPU. Elsewhere the original runs.
    """

    @wraps(original)
    def nms_rotated(
        dets: Tensor,
        scores: Tensor,
        iou_threshold: float,
        labels: Tensor | None = None,
        clockwise: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        if dets.device.type != "npu" or dets.shape[0] == 0:
            return original(dets, scores, iou_threshold, labels, clockwise)
        with torch.no_grad():
            boxes = dets.detach().clone()
            boxes[:, 4] *= 1 if clockwise else -1
            kept = kept_rotated(rotated_rectangles(boxes), scores.detach(), iou_threshold)
        return torch.cat([dets[kept], scores[kept].reshape(-1, 1)], 1), kept

    return nms_rotated
