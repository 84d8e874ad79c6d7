"""Hard voxelisation with the mean of each voxel's first points."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anybev.device.ops._checks import check_dtype, check_min_columns
from anybev.device.ops._contract import Contract
from anybev.device.ops._voxel_grid import cells_of, check_grid, voxel_grid

# Kernels pack x, y and z of a cell into one word, each axis in its own bits.
_CELL_BITS = 31


def _number(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Callable[[int], tuple[Tensor, Tensor]]]:
    """Cells and kept points of each voxel, and a slot's voxels with the point of each."""
    _, ny, nz = voxel_grid(voxel_size, point_cloud_range)
    cell, inside = cells_of(points_lidar_m, voxel_size, point_cloud_range)
    index = inside.nonzero().squeeze(1)
    xyz = cell[index].long()
    key = (xyz[:, 0] * ny + xyz[:, 1]) * nz + xyz[:, 2]
    order = torch.argsort(key, stable=True)
    _, count = torch.unique_consecutive(key[order], return_counts=True)
    start = torch.cumsum(count, 0) - count
    # Each run is one voxel; its first member is its first point, which decides the voxel's row.
    row = torch.argsort(order[start])[:max_voxels]
    start, count = start[row], count[row].clamp(max=max_points)

    def members(slot: int) -> tuple[Tensor, Tensor]:
        voxel = (count > slot).nonzero().squeeze(1)
        return voxel, index[order[start[voxel] + slot]]

    return xyz[order[start]].int(), count.int(), members


def _most(count: Tensor) -> int:
    return int(count.max()) if count.numel() else 0


def _reference(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    coords, count, members = _number(
        points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels
    )
    total = points_lidar_m.new_zeros((count.numel(), points_lidar_m.shape[1]))
    for slot in range(_most(count)):
        voxel, point = members(slot)
        total[voxel] += points_lidar_m[point]
    return total / count[:, None], coords, count


def _points_reference(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    coords, count, members = _number(
        points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels
    )
    kept = points_lidar_m.new_zeros((count.numel(), max_points, points_lidar_m.shape[1]))
    for slot in range(_most(count)):
        voxel, point = members(slot)
        kept[voxel, slot] = points_lidar_m[point]
    return kept, coords, count


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


def _points_fake(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    mean, coords, num_points = _fake(
        points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels
    )
    kept = points_lidar_m.new_empty((mean.shape[0], max_points, mean.shape[1]))
    return kept, coords, num_points


_ARGUMENTS = (
    "(Tensor points_lidar_m, float[] voxel_size, float[] point_cloud_range, int max_points, "
    "int max_voxels)"
)
_CONTRACT = Contract(
    "voxelize_hard",
    f"{_ARGUMENTS} -> (Tensor mean, Tensor coords, Tensor num_points)",
    reference=_reference,
    fake=_fake,
)
_POINTS = Contract(
    "voxelize_hard_points",
    f"{_ARGUMENTS} -> (Tensor points, Tensor coords, Tensor num_points)",
    reference=_points_reference,
    fake=_points_fake,
    public="voxelize_hard",
)
for _contract in (_CONTRACT, _POINTS):
    _contract.register_no_gradient()
    _contract.register_autocast(torch.float32)


def _run(
    contract: Contract,
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    check_dtype("voxelize_hard", "points_lidar_m", points_lidar_m, torch.float32)
    check_min_columns("voxelize_hard", "points_lidar_m", points_lidar_m, 3, rows="P")
    voxel_size = [float(v) for v in voxel_size]
    point_cloud_range = [float(v) for v in point_cloud_range]
    nx, ny, nz = check_grid("voxelize_hard", voxel_size, point_cloud_range)
    bits = sum((cells - 1).bit_length() for cells in (nx, ny, nz))
    if min(nx, ny, nz) < 1 or bits > _CELL_BITS:
        raise ValueError(
            "voxelize_hard: point_cloud_range / voxel_size must be at least 1 cell an axis and at "
            f"most 2^{_CELL_BITS} in all (axes rounded up to powers of two), got {nx} x {ny} x {nz}"
        )
    for name, cap in (("max_points", max_points), ("max_voxels", max_voxels)):
        if cap < 1:
            raise ValueError(f"voxelize_hard: {name} must be at least 1, got {cap}")
    values, coords, num_points = contract(
        points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels
    )
    return values, coords, num_points


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
    result is the same to the last bit on every thread count and implementation on the CPU. The CUDA
    kernel does the same arithmetic in the same order; it waits for the device once, for V.

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
    return _run(_CONTRACT, points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels)


def voxelize_hard_points(
    points_lidar_m: Tensor,
    voxel_size: Sequence[float],
    point_cloud_range: Sequence[float],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Group the points of one sample by voxel and keep each voxel's first points.

    As :func:`voxelize_hard`, which averages what this returns.

    Returns:
        points: (V, max_points, F) float32, kept points in point order, then zeros.
        coords: (V, 3) int32, cell x, y, z; rows in order of first appearance.
        num_points: (V,) int32, kept points.
        None of them carries a gradient.
    """
    return _run(_POINTS, points_lidar_m, voxel_size, point_cloud_range, max_points, max_voxels)
