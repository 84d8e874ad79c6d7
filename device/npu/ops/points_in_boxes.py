"""points_in_boxes through ``mx_driving.points_in_boxes_all``, which takes boxes first.

Its boxes stand on their z, as the contract's do. It leaves out the faces along x and y, which the
contract counts in: lengths and widths are widened by one or two roundings before the call, so a
point on a face is inside, and so is one nearer to it than that. Its height test adds half the
height to z first, which rounds differently at top and bottom.
"""

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor

_WIDER = 1 + 2.0**-23


def points_in_boxes(points_lidar_m: Tensor, boxes_lidar: Tensor) -> Tensor:
    """See the contract."""
    limits.require_work(points_lidar_m.shape[0], boxes_lidar.shape[0])
    limits.require_single("points", points_lidar_m, boxes_lidar)
    widened = boxes_lidar[:, 3:5] * _WIDER
    boxes = torch.cat([boxes_lidar[:, :3], widened, boxes_lidar[:, 5:7]], 1)
    points = points_lidar_m[:, :3].contiguous()
    inside: Tensor = vendor().points_in_boxes_all(boxes[None], points[None])
    return inside[0] > 0
