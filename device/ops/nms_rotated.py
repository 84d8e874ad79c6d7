"""Greedy suppression of rotated boxes seen from above."""

import torch
from torch import Tensor

from anybev.device.ops._checks import (
    check_columns,
    check_floating,
    check_length,
    check_same_device,
    promote_half,
)
from anybev.device.ops._contract import Contract
from anybev.device.ops.box_iou_rotated import box_iou_rotated


def _reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    order = torch.argsort(scores, descending=True, stable=True)
    ranked = boxes[order]
    # suppresses[i, j]: box i, where it is kept, removes the lower-ranked box j.
    suppresses = (box_iou_rotated(ranked, ranked) > iou_threshold).triu_(1)
    keep = torch.ones_like(order, dtype=torch.bool)
    # Greedy suppression is the only fixed point: after k rounds at least the first k are settled.
    for _ in range(order.numel()):
        settled = ~(suppresses & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            break
        keep = settled
    return order[keep]


def _fake(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)


_CONTRACT = Contract(
    "nms_rotated",
    "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor",
    reference=_reference,
    fake=_fake,
)
_CONTRACT.register_no_gradient()
_CONTRACT.register_autocast(torch.float32)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep the best box of each group of overlapping ones.

    From the highest score down, a box is kept unless its IoU with an already kept one is greater
    than the threshold. Equal scores rank by lower index. A box with a NaN entry neither suppresses
    nor is suppressed.

    Args:
        boxes: (N, 5) floating: centre x, y and sizes dx, dy in metres, yaw in radians.
        scores: (N,) floating.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices of the kept boxes by descending score; no gradient. float16 and bfloat16
        are computed in float32.

    Raises:
        TypeError: boxes or scores are not floating.
        ValueError: a shape or device disagrees, or the threshold is outside [0, 1].
    """
    check_floating("nms_rotated", "boxes", boxes)
    check_columns("nms_rotated", "boxes", boxes, 5, rows="N")
    check_floating("nms_rotated", "scores", scores)
    check_length("nms_rotated", "scores", scores, boxes.shape[0])
    check_same_device("nms_rotated", "scores", scores, boxes.device)
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms_rotated: iou_threshold must be in [0, 1], got {iou_threshold}")
    kept: Tensor = _CONTRACT(*promote_half(boxes), *promote_half(scores), float(iou_threshold))
    return kept
