"""voxelize_hard through ``mx_driving.voxelization``.

The kernel multiplies by the reciprocal of the voxel size, which puts points near a border into the
neighbouring cell. Cells are therefore computed in PyTorch, with the contract's division, and the
kernel groups the middles of those cells on a grid of unit voxels; a point outside the range, or one
that is not finite, lies below that grid. What it copies are the points themselves, in three columns
after the cell's. Which points a full voxel keeps, and the order of voxels, follow the device's sort
of equal cells, which is not documented as stable.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor
from anybev.device.ops._voxel_grid import cells_of, voxel_grid


def voxelize_hard_points(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See the contract."""
    grid = voxel_grid(voxel_size, point_cloud_range)
    points = points_lidar_m.shape[0]
    limits.require_work(points)
    limits.require_packed(grid)
    most = limits.VOXEL_POINTS
    limits.require(max_points <= most, f"max_points must be at most {most}", max_points)
    most = limits.FLOAT_EXACT
    limits.require(points <= most, f"points must be at most {most}", points)
    cell, inside = cells_of(points_lidar_m, voxel_size, point_cloud_range)
    middle = torch.where(inside[:, None], cell + 0.5, -1.0)
    rows = torch.cat([middle, points_lidar_m], 1)
    bounds = [0.0, 0.0, 0.0, *(float(n) for n in grid)]
    count, kept, coords, num_points = vendor().voxelization(
        rows, [1.0, 1.0, 1.0], bounds, max_points, max_voxels, True, "XYZ"
    )
    return kept[:count, :, 3:].contiguous(), coords[:count].contiguous(), num_points[:count]


def voxelize_hard(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See the contract."""
    kept, coords, num_points = voxelize_hard_points(
        points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels
    )
    return kept.sum(1) / num_points[:, None], coords, num_points
