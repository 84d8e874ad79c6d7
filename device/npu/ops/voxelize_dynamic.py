"""voxelize_dynamic through ``mx_driving.voxelization`` with no cap.

The kernel divides as the contract does and gives (-1, -1, -1) to a point outside the range. What it
does with NaN and infinity is not documented, so such points are moved below the range first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor


def voxelize_dynamic(
    points_lidar_m: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> Tensor:
    """See the contract."""
    limits.require_work(points_lidar_m.shape[0])
    xyz = points_lidar_m[:, :3]
    below = [low - 2 * size for low, size in zip(point_cloud_range[:3], voxel_size, strict=True)]
    finite = torch.isfinite(xyz).all(1, keepdim=True)
    xyz = torch.where(finite, xyz, xyz.new_tensor(below)).contiguous()
    sizes, bounds = list(voxel_size), list(point_cloud_range)
    coords: Tensor = vendor().voxelization(xyz, sizes, bounds, -1, -1, True, "XYZ")
    return coords.contiguous()
