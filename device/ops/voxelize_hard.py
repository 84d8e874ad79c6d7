"""Hard voxelisation with the mean of each voxel's first points."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.ops._checks import check_dtype, check_min_columns
from anybev.device.ops._contract import Contract

# Kernels pack x, y and z of a cell into one word, each axis in its own bits.
_CELL_BITS = 31


def voxel_grid(
    voxel_size: Sequence[float], point_cloud_range: Sequence[float]
) -> tuple[int, int, int]:
    """Cells along x, y, z: the range divided by the voxel size, rounded to the nearest integer."""
    low, high = point_cloud_range[:3], point_cloud_range[3:]
    nx, ny, nz = (round((h - lo) / size) for lo, h, size in zip(low, high, voxel_size, strict=True))
    return nx, ny, nz


def _reference(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    device = points_lidar_m.device
    nx, ny, nz = voxel_grid(voxel_size, point_cloud_range)
    low = torch.tensor(point_cloud_range[:3], dtype=torch.float32, device=device)
    size = torch.tensor(voxel_size, dtype=torch.float32, device=device)
    grid = torch.tensor([nx, ny, nz], dtype=torch.float32, device=device)
    # A reciprocal instead of the division would move points that lie near a cell border.
    cell = torch.floor((points_lidar_m[:, :3] - low) / size)
    inside = ((cell >= 0) & (cell < grid)).all(1)  # False for NaN

    index = inside.nonzero().squeeze(1)
    xyz = cell[index].long()
    key = (xyz[:, 0] * ny + xyz[:, 1]) * nz + xyz[:, 2]
    order = torch.argsort(key, stable=True)
    _, count = torch.unique_consecutive(key[order], return_counts=True)
    start = torch.cumsum(count, 0) - count
    # Each run is one voxel; its first member is its first point, which decides the voxel's row.
    row = torch.argsort(order[start])[:max_voxels]
    start, count = start[row], count[row].clamp(max=max_points)

    total = points_lidar_m.new_zeros((row.numel(), points_lidar_m.shape[1]))
    for slot in range(int(count.max()) if count.numel() else 0):
        voxel = (count > slot).nonzero().squeeze(1)
        total[voxel] += points_lidar_m[index[order[start[voxel] + slot]]]
    mean = total / count[:, None]
    return mean, xyz[order[start]].int(), count.int()


def _fake(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    voxels = torch.library.get_ctx().new_dynamic_size()
    return (
        points_lidar_m.new_empty((voxels, points_lidar_m.shape[1])),
        points_lidar_m.new_empty((voxels, 3), dtype=torch.int32),
        points_lidar_m.new_empty((voxels,), dtype=torch.int32),
    )


_CONTRACT = Contract(
    "voxelize_hard",
    "(Tensor points_lidar_m, float[] voxel_size, float[] point_cloud_range, int max_points, "
    "int max_voxels) -> (Tensor mean, Tensor coords, Tensor num_points)",
    reference=_reference,
    fake=_fake,
)
_CONTRACT.register_no_gradient()
_CONTRACT.register_autocast(torch.float32)


def _check_grid(voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> None:
    if len(voxel_size) != 3 or not all(size > 0 for size in voxel_size):
        raise ValueError(
            f"voxelize_hard: voxel_size must be 3 positive lengths, got {list(voxel_size)}"
        )
    ordered = len(point_cloud_range) == 6 and all(
        lo < hi for lo, hi in zip(point_cloud_range[:3], point_cloud_range[3:], strict=True)
    )
    if not ordered:
        raise ValueError(
            "voxelize_hard: point_cloud_range must be (x, y, z low, x, y, z high) with low < high, "
            f"got {list(point_cloud_range)}"
        )
    nx, ny, nz = voxel_grid(voxel_size, point_cloud_range)
    bits = sum((cells - 1).bit_length() for cells in (nx, ny, nz))
    if min(nx, ny, nz) < 1 or bits > _CELL_BITS:
        raise ValueError(
            "voxelize_hard: point_cloud_range / voxel_size must be at least 1 cell an axis and at "
            f"most 2^{_CELL_BITS} in all (axes rounded up to powers of two), got {nx} x {ny} x {nz}"
        )


def voxelize_hard(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Group the points of one sample by voxel and average each voxel's first points.

    Points are taken in order. Cell = floor((p - low) / size) in float32 with a true division. The
    first point of a cell opens the next voxel unless ``max_voxels`` are open, in which case that
    cell never opens; later points of open voxels still count. A voxel keeps its first
    ``max_points`` points. Points outside the range are dropped, and so are points whose x, y or z
    is NaN or infinite; the other features are not looked at. The sums run in point order, so the
    result is the same to the last bit on every thread count and implementation on the CPU.

    Args:
        points_lidar_m: (P, F) float32, F >= 3; x, y, z in metres, lidar frame, then any features.
        voxel_size: x, y, z length of a voxel in metres.
        point_cloud_range: x, y, z low then x, y, z high in metres; low is inside, high is outside.
        max_points: points a voxel keeps, at least 1.
        max_voxels: voxels a sample keeps, at least 1.

    Returns:
        mean: (V, F) float32, mean of the kept points.
        coords: (V, 3) int32, cell x, y, z; rows in order of first appearance.
        num_points: (V,) int32, kept points.
        None of them carries a gradient.

    Raises:
        TypeError: points are not float32 (half precision cannot hold a cell's position).
        ValueError: shape, voxel size, range or a cap is out of its contract.

    Source: deterministic hard voxelisation and HardSimpleVFE of mmdetection3d.
    """
    check_dtype("voxelize_hard", "points_lidar_m", points_lidar_m, torch.float32)
    check_min_columns("voxelize_hard", "points_lidar_m", points_lidar_m, 3, rows="P")
    voxel_size = [float(v) for v in voxel_size]
    point_cloud_range = [float(v) for v in point_cloud_range]
    _check_grid(voxel_size, point_cloud_range)
    for name, cap in (("max_points", max_points), ("max_voxels", max_voxels)):
        if cap < 1:
            raise ValueError(f"voxelize_hard: {name} must be at least 1, got {cap}")
    mean, coords, num_points = _CONTRACT(
        points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels
    )
    return mean, coords, num_points
