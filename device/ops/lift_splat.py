"""Camera features lifted along their rays and added up by BEV cell, without the lifted volume."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from anybev.device.ops._checks import (
    check_dtype,
    check_floating,
    check_length,
    check_same_device,
    sum_dtype,
)
from anybev.device.ops._contract import Contract

# Kernels number the cells of a sample in int32, and cells of one axis exactly in float32.
_CELL_LIMIT = (1 << 31) - 1
_AXIS_LIMIT = 1 << 24

# Rays, origins, depths, low corner, cell size and grid: what decides where a point falls.
Geometry = tuple[Tensor, Tensor, Tensor, Sequence[float], Sequence[float], Sequence[int]]


def _kept(
    rays_m: Tensor,
    origin_m: Tensor,
    depths_m: Tensor,
    lower_m: Sequence[float],
    cell_size_m: Sequence[float],
    grid: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Points of one image (h, w) inside the grid: index in (D, h, w) and linear cell, int64.

    Each operation rounds to float32 in the order of the kernels, and the divisor is a tensor: some
    devices multiply by the reciprocal of a number.
    """
    lower, size = rays_m.new_tensor(lower_m), rays_m.new_tensor(cell_size_m)
    points = depths_m[:, None, None, None] * rays_m + origin_m
    position = (points - lower) / size
    # False for NaN; what is between -1 and 0 truncates to cell 0.
    inside = ((position > -1) & (position < rays_m.new_tensor(grid))).all(-1).flatten()
    point = inside.nonzero().squeeze(1)
    x, y, z = position.flatten(0, 2)[point].long().unbind(1)
    return point, (x * grid[1] + y) * grid[2] + z


def _images(logits: Tensor, geometry: Geometry) -> Iterator[tuple[Any, ...]]:
    """For each picture: its sample and number, weights (D * h * w), context (h * w, C), points."""
    rays_m, origins_m, depths_m, lower_m, cell_size_m, grid = geometry
    wide = sum_dtype(logits.dtype)
    for b in range(logits.shape[0]):
        for n in range(logits.shape[1]):
            depth, context = logits[b, n].to(wide).flatten(1).tensor_split([len(depths_m)])
            rays, origin = rays_m[b, n], origins_m[b, n]
            points = _kept(rays, origin, depths_m, lower_m, cell_size_m, grid)
            yield b, n, depth.softmax(0).flatten(), context.t(), *points


def _reference(logits: Tensor, *geometry: Any) -> Tensor:
    depths_m, (nx, ny, nz) = geometry[2], geometry[-1]
    batch_size, channels = logits.shape[0], logits.shape[2] - len(depths_m)
    out = logits.new_zeros((batch_size, nx * ny * nz, channels), dtype=sum_dtype(logits.dtype))
    for b, _, weight, context, point, cell in _images(logits, geometry):
        lifted = weight[point, None] * context[point % len(context)]
        out[b].index_add_(0, cell, lifted)
    return out.view(batch_size, nx, ny, nz * channels).permute(0, 3, 1, 2)


def _fake(logits: Tensor, *geometry: Any) -> Tensor:
    depths_m, (nx, ny, nz) = geometry[2], geometry[-1]
    shape = (logits.shape[0], nx, ny, nz * (logits.shape[2] - depths_m.shape[0]))
    return logits.new_empty(shape, dtype=sum_dtype(logits.dtype)).permute(0, 3, 1, 2)


def _backward_reference(grad: Tensor, logits: Tensor, *geometry: Any) -> Tensor:
    depths = len(geometry[2])
    out = torch.empty_like(logits)
    rows = grad.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, logits.shape[2] - depths))
    for b, n, weight, context, point, cell in _images(logits, geometry):
        row, pixel = rows[b].index_select(0, cell), point % len(context)
        grad_weight = torch.zeros_like(weight)
        grad_weight[point] = (row * context[pixel]).sum(1)
        grad_context = torch.zeros_like(context).index_add_(0, pixel, weight[point, None] * row)
        weight, grad_weight = weight.view(depths, -1), grad_weight.view(depths, -1)
        grad_depth = weight * (grad_weight - (weight * grad_weight).sum(0))
        out[b, n] = torch.cat([grad_depth, grad_context.t()]).view(out.shape[2:])
    return out


def _backward_fake(grad: Tensor, logits: Tensor, *geometry: Any) -> Tensor:
    return torch.empty_like(logits)


_GEOMETRY = (
    "Tensor rays_m, Tensor origins_m, Tensor depths_m, float[] lower_m, float[] cell_size_m, "
    "int[] grid"
)
_CONTRACT = Contract(
    "lift_splat",
    f"(Tensor logits, {_GEOMETRY}) -> Tensor",
    reference=_reference,
    fake=_fake,
    triton="forward",
)
_BACKWARD = Contract(
    "lift_splat_backward",
    f"(Tensor grad, Tensor logits, {_GEOMETRY}) -> Tensor",
    reference=_backward_reference,
    fake=_backward_fake,
    public="lift_splat",
    triton="backward",
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.setting = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _BACKWARD(grad, *ctx.saved_tensors, *ctx.setting), *[None] * 6


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _refuse_second_gradient(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    raise RuntimeError(
        "lift_splat: derivatives must be of the first order, got a backward through its gradient"
    )


_CONTRACT.register_autograd(_backward, setup_context=_save)
_CONTRACT.register_autocast(torch.float32)
_BACKWARD.register_autograd(_refuse_second_gradient, setup_context=_save_nothing)


def _check_tensors(logits: Tensor, rays_m: Tensor, origins_m: Tensor, depths_m: Tensor) -> None:
    check_floating("lift_splat", "logits", logits)
    if logits.dim() != 5:
        raise ValueError(
            f"lift_splat: logits must be (B, N, D + C, h, w), got {tuple(logits.shape)}"
        )
    batch_size, cameras, channels, height, width = logits.shape
    for name, value in (("rays_m", rays_m), ("origins_m", origins_m), ("depths_m", depths_m)):
        check_dtype("lift_splat", name, value, torch.float32)
        check_same_device("lift_splat", name, value, logits.device)
    wanted = {
        "rays_m": (batch_size, cameras, height, width, 3),
        "origins_m": (batch_size, cameras, 3),
    }
    for name, value in (("rays_m", rays_m), ("origins_m", origins_m)):
        if tuple(value.shape) != wanted[name]:
            raise ValueError(
                f"lift_splat: {name} must be {wanted[name]} for these logits, got "
                f"{tuple(value.shape)}"
            )
    check_length("lift_splat", "depths_m", depths_m, depths_m.numel())
    if not 0 < len(depths_m) < channels:
        raise ValueError(
            f"lift_splat: depths_m must be 1 to {channels - 1} depths, fewer than the channels of "
            f"logits, got {len(depths_m)}"
        )


def _check_setting(
    lower_m: Sequence[float], cell_size_m: Sequence[float], grid: Sequence[int]
) -> None:
    if len(lower_m) != 3:
        raise ValueError(f"lift_splat: lower_m must be 3 numbers, got {list(lower_m)}")
    if len(cell_size_m) != 3 or not all(v > 0 for v in cell_size_m):
        raise ValueError(
            f"lift_splat: cell_size_m must be 3 positive numbers, got {list(cell_size_m)}"
        )
    if len(grid) != 3 or not all(0 < n < _AXIS_LIMIT for n in grid):
        raise ValueError(f"lift_splat: grid must be 3 numbers in [1, 2^24), got {list(grid)}")
    if grid[0] * grid[1] * grid[2] > _CELL_LIMIT:
        raise ValueError(f"lift_splat: grid must be at most 2^31 - 1 cells, got {list(grid)}")


def lift_splat(
    logits: Tensor,
    rays_m: Tensor,
    origins_m: Tensor,
    depths_m: Tensor,
    lower_m: Sequence[float],
    cell_size_m: Sequence[float],
    grid: Sequence[int],
) -> Tensor:
    """Spread the context of every pixel over its depths and add it up by BEV cell.

    Of the logits' channels the first D, through softmax, weigh the depths and the next C are the
    context. A pixel's point at depth k is depths_m[k] * ray + origin; its cell, along each axis,
    is trunc((point - lower) / cell_size): toward zero, so a point less than one cell below the low
    corner falls into cell 0. Points outside the grid, and points that are not finite, are dropped;
    their weight is not given to the others. Cells are computed in float32, operation by operation,
    and are the same in every implementation.

    The compiled kernels never hold the lifted (D, h, w, C) volume; each cell is summed by one owner
    in the order of the pictures' columns, so on the CPU the result has the same bits for any number
    of threads, and on CUDA, where nothing is added atomically, in every run. The gradient likewise.
    Beside input and output the CUDA kernel takes up to 24 bytes a point, of at most 2^24 points at
    a time, and never waits for the device.

    Args:
        logits: (B, N, D + C, h, w) float32, float16, bfloat16 or float64; any memory format, no
            slower in channels-last.
        rays_m: (B, N, h, w, 3) float32, augmented lidar frame: what a point moves for one metre
            of depth.
        origins_m: (B, N, 3) float32, the cameras' positions in the same frame.
        depths_m: (D,) float32, in any order.
        lower_m: low corner of the grid along x, y and z.
        cell_size_m: size of a cell along x, y and z.
        grid: cells along x, y and z.

    Returns:
        (B, C * Z, X, Y) float32 (float64 for float64 logits), channel z * C + c, in the
        channels-last memory format. The gradient goes to the logits only, in their dtype and
        memory format. Autocast computes in float32.

    Raises:
        TypeError: logits are not floating, or the geometry is not float32.
        ValueError: a shape, a device or the grid is out of its contract.
        RuntimeError: a second derivative is asked for.

    Source: Philion and Fidler, "Lift, Splat, Shoot", ECCV 2020; truncation as in BEVFusion
    (mmdetection3d), whose checkpoints were trained with it.
    """
    _check_tensors(logits, rays_m, origins_m, depths_m)
    _check_setting(lower_m, cell_size_m, grid)
    out: Tensor = _CONTRACT(
        logits,
        rays_m,
        origins_m,
        depths_m,
        [float(v) for v in lower_m],
        [float(v) for v in cell_size_m],
        [int(n) for n in grid],
    )
    return out
