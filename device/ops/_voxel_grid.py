"""The grid that voxelisers share: its size, its checks and the cell of a point."""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor


def voxel_grid(
    voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> tuple[int, int, int]:
    """Cells along x, y, z: the range divided by the voxel size, rounded to the nearest integer."""
    low, high = point_cloud_range[:3], point_cloud_range[3:]
    nx, ny, nz = (round((h - lo) / size) for lo, h, size in zip(low, high, voxel_size, strict=True))
    return nx, ny, nz


def check_grid(
    operator: str, voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> tuple[int, int, int]:
    """Cells along x, y, z of a voxel size and a range that are what they must be.

    Raises:
        ValueError: they are not three positive lengths, or three lower and three higher bounds.
    """
    if len(voxel_size) != 3 or not all(0 < size < float("inf") for size in voxel_size):
        raise ValueError(
            f"{operator}: voxel_size must be 3 positive lengths, got {list(voxel_size)}"
        )
    ordered = len(point_cloud_range) == 6 and all(
        isfinite(lo) and isfinite(hi) and lo < hi
        for lo, hi in zip(point_cloud_range[:3], point_cloud_range[3:], strict=True)
    )
    if not ordered:
        raise ValueError(
            f"{operator}: point_cloud_range must be (x, y, z low, x, y, z high) with low < high, "
            f"got {list(point_cloud_range)}"
        )
    return voxel_grid(voxel_size, point_cloud_range)


def cells_of(
    points_lidar_m: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Cell of each point, (P, 3) float32 whole numbers, and whether it is inside the range."""
    device = points_lidar_m.device
    low = torch.tensor(point_cloud_range[:3], dtype=torch.float32, device=device)
    size = torch.tensor(voxel_size, dtype=torch.float32, device=device)
    cells = voxel_grid(voxel_size, point_cloud_range)
    grid = torch.tensor(cells, dtype=torch.float32, device=device)
    # A reciprocal instead of the division would move points that lie near a cell border.
    cell = torch.floor((points_lidar_m[:, :3] - low) / size)
    return cell, ((cell >= 0) & (cell < grid)).all(1)  # False for NaN
