"""nms_rotated through ``mx_driving.nms3d``.

nms3d takes seven columns and suppresses by the overlap seen from above, above the threshold, as the
contract does. Its sort of scores is not stable, so boxes are ranked first and handed over with
their ranks as scores. A row that is not finite becomes a box of no size, which overlaps nothing.
The kernel counts corners up to 1 cm outside a box as inside it: overlaps that near the threshold
may differ.
"""

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor
from anybev.device.npu.ops.box_iou_rotated import cleared


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """See the contract."""
    count, most = boxes.shape[0], limits.NMS_BOXES
    limits.require_work(count)
    limits.require_single("boxes", boxes)
    limits.require(count <= most, f"boxes must be at most {most}", count)
    order = torch.argsort(scores, descending=True, stable=True)
    x, y, dx, dy, yaw = cleared(boxes)[0][order].unbind(1)
    ranked = torch.stack([x, y, torch.zeros_like(x), dx, dy, torch.ones_like(x), yaw], 1)
    ranks = torch.arange(count, 0, -1, dtype=torch.float32, device=boxes.device)
    kept: Tensor = vendor().nms3d(ranked, ranks, iou_threshold)
    return order[kept.long()]
