"""KITTI's metric computes overlaps with numba on CUDA, and cannot run elsewhere."""

from types import ModuleType

import numpy as np
import torch

from anybev.device import current_backend
from anybev.device.ops.box_iou_rotated import box_iou_rotated

NAME = "mmdet3d.evaluation.functional.kitti_utils.rotate_iou"

_UNION, _QUERY, _BOX = -1, 0, 1


def rotate_iou_gpu_eval(
    boxes: np.ndarray, query_boxes: np.ndarray, criterion: int = _UNION, device_id: int = 0
) -> np.ndarray:
    """Overlap of rotated boxes through AnyBEV's ``box_iou_rotated``, on the device in use.

    Upstream's kernel takes the two boxes the other way round, so its "area 1" is the query's: kept,
    for the metric is defined by it. Areas agree within rounding, except where edges coincide:
    upstream loses corners there (a turned box against itself gives less than 1).

    Args:
        boxes: (N, 5): centre, sizes, angle in radians, clockwise.
        query_boxes: (K, 5).
        criterion: shared area over the union (-1), the query's area (0), the box's (1), or the
            shared area itself (any other).
        device_id: ignored: a process has one device.

    Returns:
        (N, K) float32.
    """
    del device_id
    device = torch.device(current_backend().device_type)
    a, b = (
        torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device).reshape(-1, 5)
        for x in (boxes, query_boxes)
    )
    turn = a.new_tensor([1, 1, 1, 1, -1])  # counter-clockwise
    shared = box_iou_rotated(a * turn, b * turn, mode="intersection")
    area_a, area_b = (a[:, 2] * a[:, 3])[:, None], (b[:, 2] * b[:, 3])[None]
    if criterion == _UNION:
        shared = shared / (area_a + area_b - shared)
    elif criterion == _QUERY:
        shared = shared / area_b
    elif criterion == _BOX:
        shared = shared / area_a
    result: np.ndarray = shared.cpu().numpy()
    return result


def replace() -> dict[str, ModuleType]:
    """The module that KITTI's metric imports when it runs; upstream's compiles for CUDA then."""
    module = ModuleType(NAME, __doc__)
    module.__dict__["rotate_iou_gpu_eval"] = rotate_iou_gpu_eval
    return {NAME: module}
