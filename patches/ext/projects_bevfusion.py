"""The two compiled extensions of mmdetection3d's projects/BEVFusion, as functions by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from anybev.device.ops._contract import CONTRACTS
from anybev.device.ops.bev_pool import bev_pool
from anybev.patches.ext.voxels import (
    check_axes,
    dynamic_point_to_voxel_backward,
    dynamic_point_to_voxel_forward,
    fill_voxels,
    point_cells,
)


def _pool_coords(geom_feats: Tensor) -> Tensor:
    """(N, 4) x, y, z, sample to the operator's sample, x, y, z."""
    return geom_feats.int().roll(1, 1)


def bev_pool_forward(
    x: Tensor,
    geom_feats: Tensor,
    interval_lengths: Tensor,
    interval_starts: Tensor,
    b: int,
    d: int,
    h: int,
    w: int,
) -> Tensor:
    """Sum the features of the points of each cell.

    Args:
        x: (N, C) floating; sorted by cell, which the operator does not need.
        geom_feats: (N, 4) int32: x in [0, h), y in [0, w), z in [0, d), sample in [0, b).
        interval_lengths: (I,) int32, points of each cell; not looked at, ``geom_feats`` says it.
        interval_starts: (I,) int32, first point of each cell; likewise.
        b: samples.
        d: cells along z.
        h: cells along x.
        w: cells along y.

    Returns:
        (b, d, h, w, C) in the dtype of ``x``; cells without a point are 0.
    """
    pooled = bev_pool(x, _pool_coords(geom_feats), b, (h, w, d))
    rows = pooled.permute(0, 2, 3, 1).reshape(b, h, w, d, x.shape[1])
    return rows.permute(0, 3, 1, 2, 4).to(x.dtype)


def bev_pool_backward(
    out_grad: Tensor,
    geom_feats: Tensor,
    interval_lengths: Tensor,
    interval_starts: Tensor,
    b: int,
    d: int,
    h: int,
    w: int,
) -> Tensor:
    """Gradient of :func:`bev_pool_forward` with respect to ``x``.

    Args:
        out_grad: (b, d, h, w, C).
        geom_feats: (N, 4) int32, as they were given.
        interval_lengths: not looked at.
        interval_starts: not looked at.
        b: samples.
        d: cells along z.
        h: cells along x.
        w: cells along y.

    Returns:
        (N, C) in the dtype of ``out_grad``: each point gets its cell's gradient.
    """
    rows = out_grad.permute(0, 2, 3, 1, 4).reshape(b, h, w, -1)
    gradient = CONTRACTS["bev_pool_backward"]
    out: Tensor = gradient(
        rows.permute(0, 3, 1, 2), _pool_coords(geom_feats), [h, w, d], out_grad.dtype
    )
    return out


def hard_voxelize(
    points: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> int:
    """Group points by voxel: mmcv's ``hard_voxelize_forward`` with cells as x, y, z.

    Args:
        points: (P, F >= 3) float32, float16 or bfloat16: x, y, z in metres, then anything.
        voxels: (max_voxels, max_points, F) zeros; filled in place.
        coors: (max_voxels, 3) int32; filled in place with x, y, z.
        num_points_per_voxel: (max_voxels,) int32; filled in place.
        voxel_size: x, y, z.
        coors_range: x, y, z low, then high.
        max_points: points a voxel keeps.
        max_voxels: voxels.
        NDim: 3.
        deterministic: without effect, for the answer always is.

    Returns:
        Number of voxels.
    """
    check_axes("hard_voxelize", NDim)
    return fill_voxels(
        points,
        voxels,
        coors,
        num_points_per_voxel,
        voxel_size,
        coors_range,
        max_points,
        max_voxels,
        z_first=False,
    )


def dynamic_voxelize(
    points: Tensor,
    coors: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    NDim: int = 3,
) -> None:
    """Find the cell of every point: mmcv's ``dynamic_voxelize_forward`` with cells as x, y, z.

    Args:
        points: (P, F >= 3) float32, float16 or bfloat16: x, y, z in metres, then anything.
        coors: (P, 3) int32; filled in place with x, y, z, and with -1 for a point outside.
        voxel_size: x, y, z.
        coors_range: x, y, z low, then high.
        NDim: 3.
    """
    check_axes("dynamic_voxelize", NDim)
    coors.copy_(point_cells(points, voxel_size, coors_range))


# What the project imports as bev_pool.bev_pool_ext and as voxel.voxel_layer.
BEV_POOL_EXT: Mapping[str, Callable[..., Any]] = {
    "bev_pool_forward": bev_pool_forward,
    "bev_pool_backward": bev_pool_backward,
}
VOXEL_LAYER: Mapping[str, Callable[..., Any]] = {
    "hard_voxelize": hard_voxelize,
    "dynamic_voxelize": dynamic_voxelize,
    "dynamic_point_to_voxel_forward": dynamic_point_to_voxel_forward,
    "dynamic_point_to_voxel_backward": dynamic_point_to_voxel_backward,
}
