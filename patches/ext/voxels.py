"""Names of ``mmcv._ext`` that put points into voxels."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anybev.device.ops._contract import CONTRACTS
from anybev.device.ops.scatter_points import scatter_points
from anybev.device.ops.voxelize_dynamic import voxelize_dynamic
from anybev.device.ops.voxelize_hard import voxelize_hard_points
from anybev.patches.ext._table import supplies


def rounded_range(voxel_size: Sequence[float], coors_range: Sequence[float]) -> list[float]:
    """The range whose upper ends hold exactly as many cells as mmcv counts.

    mmcv divides in float32 and rounds halves up; the operators divide in float64 and round halves
    to even. Only the number of cells depends on the upper ends.
    """
    size, bounds = np.asarray(voxel_size, np.float32), np.asarray(coors_range, np.float32)
    cells = [math.floor(float(n) + 0.5) for n in (bounds[3:] - bounds[:3]) / size]
    low: list[float] = bounds[:3].tolist()
    return low + [lo + n * s for lo, n, s in zip(low, cells, size.tolist(), strict=True)]


def check_axes(name: str, axes: int) -> None:
    """Raise ValueError unless there are three: no caller has others."""
    if axes != 3:
        raise ValueError(f"{name}: NDim must be 3, got {axes}")


def as_float32(points: Tensor) -> Tensor:
    """Halves as float32, in which mmcv finds their cells, too."""
    return points.float() if points.dtype in (torch.float16, torch.bfloat16) else points


def fill_voxels(
    points: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int,
    max_voxels: int,
    *,
    z_first: bool,
) -> int:
    """Write the voxels of ``points`` into the first rows of the outputs; return how many."""
    kept, xyz, count = voxelize_hard_points(
        as_float32(points),
        voxel_size,
        rounded_range(voxel_size, coors_range),
        voxels.shape[1] if max_points == -1 else max_points,
        voxels.shape[0] if max_voxels == -1 else max_voxels,
    )
    rows = count.numel()
    voxels[:rows] = kept
    coors[:rows] = xyz.flip(1) if z_first else xyz
    num_points_per_voxel[:rows] = count
    return rows


def point_cells(
    points: Tensor, voxel_size: Sequence[float], coors_range: Sequence[float]
) -> Tensor:
    """(P, 3) int32 cell x, y, z of each point; -1, -1, -1 outside."""
    return voxelize_dynamic(as_float32(points), voxel_size, rounded_range(voxel_size, coors_range))


@supplies("voxelize_hard")
def hard_voxelize_forward(
    points: Tensor,
    voxel_size: Tensor,
    coors_range: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_num: Tensor,
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """Group points by voxel: ``mmcv.ops.Voxelization`` with a cap on points and voxels.

    Voxels are numbered in order of first appearance and keep their first points; ``deterministic``
    changes nothing, for the answer always is.

    Args:
        points: (P, F >= 3) float32, float16 or bfloat16: x, y, z in metres, then anything.
        voxel_size: (3,) float32: x, y, z.
        coors_range: (6,) float32: x, y, z low, then high.
        voxels: (max_voxels, max_points, F) zeros in the dtype of ``points``; filled in place.
        coors: (max_voxels, 3) int32; filled in place with z, y, x.
        num_points_per_voxel: (max_voxels,) int32; filled in place.
        voxel_num: () int64; filled in place with the number of voxels.
        max_points: points a voxel keeps; -1: as many as ``voxels`` has room for.
        max_voxels: voxels; -1: as many as ``voxels`` has room for.
        NDim: 3.
        deterministic: without effect.
    """
    check_axes("hard_voxelize_forward", NDim)
    rows = fill_voxels(
        points,
        voxels,
        coors,
        num_points_per_voxel,
        voxel_size.tolist(),
        coors_range.tolist(),
        max_points,
        max_voxels,
        z_first=True,
    )
    voxel_num.fill_(rows)


@supplies("voxelize_dynamic")
def dynamic_voxelize_forward(
    points: Tensor,
    voxel_size: Tensor,
    coors_range: Tensor,
    coors: Tensor,
    NDim: int = 3,
) -> None:
    """Find the cell of every point: ``mmcv.ops.Voxelization`` without caps.

    Args:
        points: (P, F >= 3) float32, float16 or bfloat16: x, y, z in metres, then anything.
        voxel_size: (3,) float32: x, y, z.
        coors_range: (6,) float32: x, y, z low, then high.
        coors: (P, 3) int32; filled in place with z, y, x, and with -1 for a point outside. (mmcv's
            CUDA kernel may leave the last columns of such a row as they were.)
        NDim: 3.
    """
    check_axes("dynamic_voxelize_forward", NDim)
    coors.copy_(point_cells(points, voxel_size.tolist(), coors_range.tolist()).flip(1))


@supplies("scatter_points")
def dynamic_point_to_voxel_forward(
    feats: Tensor, coors: Tensor, reduce_type: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reduce the features of the points of each voxel: ``mmcv.ops.DynamicScatter``.

    Args:
        feats: (P, C) floating.
        coors: (P, D) int32 or int64; a row with a negative number belongs to no voxel.
        reduce_type: ``sum``, ``mean`` or ``max``.

    Returns:
        (V, C) in the dtype of ``feats``; (V, D) voxels in ascending order, in the dtype of
        ``coors``; (P,) int32 voxel of each point or -1; (V,) int32 points of each voxel.
    """
    reduced, voxel_coors, voxel, counts = scatter_points(feats, coors, reduce_type)
    return reduced.to(feats.dtype), voxel_coors, voxel, counts


@supplies("scatter_points")
def dynamic_point_to_voxel_backward(
    grad_feats: Tensor,
    grad_reduced_feats: Tensor,
    feats: Tensor,
    reduced_feats: Tensor,
    coors_idx: Tensor,
    reduce_count: Tensor,
    reduce_type: str,
) -> None:
    """Gradient of :func:`dynamic_point_to_voxel_forward` with respect to ``feats``.

    Args:
        grad_feats: (P, C); filled in place: the voxel's gradient (``sum``), divided by its points
            (``mean``), or all of it to the first point that holds the maximum (``max``).
        grad_reduced_feats: (V, C).
        feats: (P, C), as they were given.
        reduced_feats: (V, C), as returned.
        coors_idx: (P,) int32, as returned.
        reduce_count: (V,) int32, as returned.
        reduce_type: as it was given.
    """
    values = (feats, reduced_feats) if reduce_type == "max" else (None, None)
    gradient = CONTRACTS["scatter_points_backward"]
    grad_feats.copy_(gradient(grad_reduced_feats, coors_idx, reduce_count, *values, reduce_type))
