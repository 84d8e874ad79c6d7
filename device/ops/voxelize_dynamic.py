"""Dynamic voxelisation: the cell of every point."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.ops._checks import check_dtype, check_min_columns
from anybev.device.ops._contract import Contract
from anybev.device.ops._voxel_grid import cells_of, check_grid

# Float32 counts cells along an axis up to here.
_CELL_LIMIT = 1 << 24


def _reference(
    points_lidar_m: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> Tensor:
    cell, inside = cells_of(points_lidar_m, voxel_size, point_cloud_range)
    return torch.where(inside[:, None], cell, -1).int()


def _fake(
    points_lidar_m: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> Tensor:
    return points_lidar_m.new_empty((points_lidar_m.shape[0], 3), dtype=torch.int32)


_CONTRACT = Contract(
    "voxelize_dynamic",
    "(Tensor points_lidar_m, float[] voxel_size, float[] point_cloud_range) -> Tensor",
    reference=_reference,
    fake=_fake,
)
_CONTRACT.register_no_gradient()
_CONTRACT.register_autocast(torch.float32)


def voxelize_dynamic(
    points_lidar_m: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> Tensor:
    """Find the cell that each point falls into; no cell is full and no point is dropped.

    Cell = floor((p - low) / size) in float32 with a true division, as in ``voxelize_hard``: both
    operators put a point into the same cell.

    Args:
        points_lidar_m: (P, F) float32, F >= 3; x, y, z in metres, lidar frame, then anything.
        voxel_size: x, y, z length of a voxel in metres.
        point_cloud_range: x, y, z low then x, y, z high in metres; low is inside, high is outside.

    Returns:
        (P, 3) int32, cell x, y, z; (-1, -1, -1) for a point outside the range and for one whose x,
        y or z is NaN or infinite. No gradient. The same on every implementation.

    Raises:
        TypeError: points are not float32 (half precision cannot hold a cell's position).
        ValueError: shape, voxel size or range is out of its contract.

    Source: dynamic voxelisation of mmdetection3d, which returns z, y, x.
    """
    check_dtype("voxelize_dynamic", "points_lidar_m", points_lidar_m, torch.float32)
    check_min_columns("voxelize_dynamic", "points_lidar_m", points_lidar_m, 3, rows="P")
    voxel_size = [float(v) for v in voxel_size]
    point_cloud_range = [float(v) for v in point_cloud_range]
    nx, ny, nz = check_grid("voxelize_dynamic", voxel_size, point_cloud_range)
    if min(nx, ny, nz) < 1 or max(nx, ny, nz) > _CELL_LIMIT:
        raise ValueError(
            "voxelize_dynamic: point_cloud_range / voxel_size must be 1 to 2^24 cells an axis, got "
            f"{nx} x {ny} x {nz}"
        )
    coords: Tensor = _CONTRACT(points_lidar_m, voxel_size, point_cloud_range)
    return coords
