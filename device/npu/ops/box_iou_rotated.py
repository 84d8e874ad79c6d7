"""box_iou_rotated through ``mx_driving.box_iou_rotated``.

``clockwise=True`` there means what the contract calls counter-clockwise: corners turn by +yaw in a
frame with y up. An intersection is its share of the first box, which is offered, times that box's
area. Rows that are not finite, and sizes that are not positive, are cleared before the call; NaN is
put back after it.
"""

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor


def cleared(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes without odd rows and negative sizes; which rows, (N, 1), were not finite."""
    odd = ~torch.isfinite(boxes).all(1, keepdim=True)
    boxes = torch.where(odd, 0.0, boxes)
    sizes = boxes[:, 2:4].clamp(min=0)
    sizes = torch.where((sizes > 0).all(1, keepdim=True), sizes, 0.0)
    return torch.cat([boxes[:, :2], sizes, boxes[:, 4:]], 1), odd


def box_iou_rotated(boxes_a: Tensor, boxes_b: Tensor, mode: str) -> Tensor:
    """See the contract."""
    limits.require_work(boxes_a.shape[0], boxes_b.shape[0])
    limits.require_single("boxes", boxes_a, boxes_b)
    pairs = boxes_a.shape[0] * boxes_b.shape[0]
    limits.require(pairs <= limits.BOX_PAIRS, f"pairs must be at most {limits.BOX_PAIRS}", pairs)
    (a, odd_a), (b, odd_b) = cleared(boxes_a), cleared(boxes_b)
    kernel_mode = "iou" if mode == "iou" else "iof"
    overlap: Tensor = vendor().box_iou_rotated(a, b, kernel_mode, False, True)
    if mode == "intersection":
        overlap = overlap * (a[:, 2:3] * a[:, 3:4])
    flat = (a[:, 2:3] <= 0) | (b[:, 2] <= 0)
    overlap = torch.where(flat, 0.0, overlap)
    return torch.where(odd_a | odd_b[:, 0], torch.nan, overlap)
