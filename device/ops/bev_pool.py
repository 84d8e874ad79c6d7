"""Sums of lifted camera features by BEV cell."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anybev.device.ops._checks import (
    check_columns,
    check_dtype,
    check_floating,
    check_same_device,
    sum_dtype,
)
from anybev.device.ops._contract import Contract

# Kernels number the cells of a batch in int32.
_CELL_LIMIT = (1 << 31) - 1


def linear_cells(coords: Tensor, batch_size: int, grid: Sequence[int]) -> Tensor:
    """Linear cell of each point, int64, (b, x, y, z) ascending; ValueError for one outside."""
    bounds = (batch_size, *grid)
    if coords.shape[0]:
        low, high = torch.aminmax(coords, dim=0)
        limit = torch.tensor(bounds, dtype=coords.dtype, device=coords.device)
        if ((low < 0) | (high >= limit)).any():
            raise ValueError(
                f"bev_pool: coords must be in [0, {list(bounds)}), got {low.tolist()} to "
                f"{high.tolist()}"
            )
    b, x, y, z = coords.long().unbind(1)
    return ((b * grid[0] + x) * grid[1] + y) * grid[2] + z


def _reference(features: Tensor, coords: Tensor, batch_size: int, grid: Sequence[int]) -> Tensor:
    nx, ny, nz = grid
    wide = sum_dtype(features.dtype)
    channels = features.shape[1]
    out = features.new_zeros((batch_size * nx * ny * nz, channels), dtype=wide)
    out.index_add_(0, linear_cells(coords, batch_size, grid), features.to(wide))
    return out.view(batch_size, nx, ny, nz * channels).permute(0, 3, 1, 2)


def _fake(features: Tensor, coords: Tensor, batch_size: int, grid: Sequence[int]) -> Tensor:
    nx, ny, nz = grid
    shape = (batch_size, nx, ny, nz * features.shape[1])
    return features.new_empty(shape, dtype=sum_dtype(features.dtype)).permute(0, 3, 1, 2)


def _gather_reference(
    grad: Tensor, coords: Tensor, grid: Sequence[int], dtype: torch.dtype
) -> Tensor:
    cells = linear_cells(coords, grad.shape[0], grid)
    nx, ny, nz = grid
    rows = grad.permute(0, 2, 3, 1).reshape(grad.shape[0] * nx * ny * nz, -1)
    return rows.index_select(0, cells).to(dtype)


def _gather_fake(grad: Tensor, coords: Tensor, grid: Sequence[int], dtype: torch.dtype) -> Tensor:
    return grad.new_empty((coords.shape[0], grad.shape[1] // grid[2]), dtype=dtype)


_POOL = Contract(
    "bev_pool",
    "(Tensor features, Tensor coords, int batch_size, int[] grid) -> Tensor",
    reference=_reference,
    fake=_fake,
)
_GATHER = Contract(
    "bev_pool_backward",
    "(Tensor grad, Tensor coords, int[] grid, ScalarType dtype) -> Tensor",
    reference=_gather_reference,
    fake=_gather_fake,
    public="bev_pool",
)


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, coords, _, ctx.grid = inputs
    ctx.dtype = features.dtype
    ctx.save_for_backward(coords)


def _pool_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (coords,) = ctx.saved_tensors
    return _GATHER(grad, coords, ctx.grid, ctx.dtype), None, None, None


def _save_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, coords, ctx.grid, _ = inputs
    ctx.batch_size, ctx.dtype = grad.shape[0], grad.dtype
    ctx.save_for_backward(coords)


def _gather_backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    (coords,) = ctx.saved_tensors
    out = _POOL(cotangent, coords, ctx.batch_size, ctx.grid)
    return out.to(ctx.dtype), None, None, None


_POOL.register_autograd(_pool_backward, setup_context=_save_pool)
_GATHER.register_autograd(_gather_backward, setup_context=_save_gather)


def bev_pool(features: Tensor, coords: Tensor, batch_size: int, grid: Sequence[int]) -> Tensor:
    """Add up the features of all points that fall into each cell.

    Sums run in float32 (float64 for float64 features), in point order and each cell by one thread:
    on the CPU the result has the same bits for any number of threads, and the CUDA kernel adds in
    the same order. Cells without a point are 0. On CUDA each direction waits for the device once,
    to read whether every coordinate is in the grid.
    Autocast changes nothing: half precision features are taken as they come, and sums over
    hundreds of points are not rounded to it.

    Args:
        features: (M, C) float32, float16, bfloat16 or float64; one row a lifted point.
        coords: (M, 4) int32, (b, x, y, z) of each point's cell, in any order.
        batch_size: B.
        grid: cells along x, y and z.

    Returns:
        (B, C * Z, X, Y) float32 (float64 for float64 features), channel z * C + c, in the
        channels-last memory format. The gradient goes to the features, in their dtype.

    Raises:
        TypeError: features are not floating, or coords are not int32.
        ValueError: a shape, a device, the grid or a coordinate is out of its contract.

    Source: Philion and Fidler, "Lift, Splat, Shoot", ECCV 2020; ``bev_pool`` of BEVFusion, with z
    folded into the channels.
    """
    check_floating("bev_pool", "features", features)
    if features.dim() != 2:
        raise ValueError(f"bev_pool: features must be (M, C), got {tuple(features.shape)}")
    check_dtype("bev_pool", "coords", coords, torch.int32)
    check_columns("bev_pool", "coords", coords, 4, rows="M")
    check_same_device("bev_pool", "coords", coords, features.device)
    if coords.shape[0] != features.shape[0]:
        raise ValueError(
            f"bev_pool: coords must be ({features.shape[0]}, 4) as features have as many rows, got "
            f"{tuple(coords.shape)}"
        )
    if len(grid) != 3 or not all(n > 0 for n in grid) or batch_size < 1:
        raise ValueError(
            "bev_pool: batch_size and grid must be 1 and 3 positive numbers, got "
            f"{batch_size} and {list(grid)}"
        )
    nx, ny, nz = (int(n) for n in grid)
    if batch_size * nx * ny * nz > _CELL_LIMIT:
        raise ValueError(
            f"bev_pool: batch_size * grid must be at most 2^31 - 1 cells, got {batch_size} * "
            f"{nx} * {ny} * {nz}"
        )
    out: Tensor = _POOL(features, coords, batch_size, [nx, ny, nz])
    return out
