"""lift_splat and its gradient: cells and softmax in PyTorch, sums by ``bev_pool_v3`` with depths.

mx_driving has no fused form. ``depth`` is (B, N, D, h, w) and ``feat`` (B, N, h, w, C), a point is
a place in each of them, and its cell is numbered (b, x, y, z). Cells are computed by the operations
of the reference, in its order. The kernel takes float32, to which half precision is raised; sums
run in no fixed order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor, vendor_kernels
from anybev.device.npu.ops.bev_pool import as_map, as_rows

Ranks = tuple[Tensor, Tensor, Tensor]


def _ranks(
    rays_m: Tensor,
    origins_m: Tensor,
    depths_m: Tensor,
    lower_m: Sequence[float],
    cell_size_m: Sequence[float],
    grid: Sequence[int],
) -> Ranks:
    """Of every point inside the grid: its place in ``depth`` and ``feat``, and its cell; int32."""
    _, cameras, height, width, _ = rays_m.shape
    lower, size = rays_m.new_tensor(lower_m), rays_m.new_tensor(cell_size_m)
    points = depths_m[:, None, None, None] * rays_m[:, :, None]
    position = (points + origins_m[:, :, None, None, None] - lower) / size
    # False for NaN; what is between -1 and 0 truncates to cell 0.
    inside = ((position > -1) & (position < rays_m.new_tensor(grid))).all(-1).flatten()
    point = inside.nonzero().squeeze(1)
    x, y, z = position.flatten(0, 4)[point].int().unbind(1)
    pixels, depths = height * width, len(depths_m)
    image = point // (depths * pixels)
    cell = ((image // cameras).int() * grid[0] + x) * grid[1] + y
    return point.int(), (image * pixels + point % pixels).int(), cell * grid[2] + z


def _split(logits: Tensor, depths: int) -> tuple[Tensor, Tensor]:
    """Weights (B, N, D, h, w) and context (B, N, h, w, C), float32."""
    depth, context = logits.float().tensor_split([depths], 2)
    return depth.softmax(2).contiguous(), context.permute(0, 1, 3, 4, 2).contiguous()


def _check(logits: Tensor, depths: int, grid: Sequence[int]) -> None:
    batch_size, cameras, channels, height, width = logits.shape
    limits.require_work(logits.numel())
    limits.require_single("logits", logits)
    limits.require_pool(channels - depths, batch_size, grid)
    # Of the weights, and of the context, whose values the kernel numbers too.
    points = batch_size * cameras * height * width * max(depths, channels - depths)
    limits.require(points <= limits.INT32, f"points must be at most {limits.INT32}", points)


def lift_splat(
    logits: Tensor,
    rays_m: Tensor,
    origins_m: Tensor,
    depths_m: Tensor,
    lower_m: Sequence[float],
    cell_size_m: Sequence[float],
    grid: Sequence[int],
) -> Tensor:
    """See the contract."""
    nx, ny, nz = grid
    _check(logits, len(depths_m), grid)
    weight, context = _split(logits, len(depths_m))
    by_depth, by_pixel, cell = _ranks(rays_m, origins_m, depths_m, lower_m, cell_size_m, grid)
    limits.require_work(len(cell))
    shape = [logits.shape[0], 1, nx, ny * nz, context.shape[-1]]
    pooled: Tensor = vendor().bev_pool_v3(weight, context, by_depth, by_pixel, cell, shape)
    return as_map(pooled, nz)


def lift_splat_backward(
    grad: Tensor,
    logits: Tensor,
    rays_m: Tensor,
    origins_m: Tensor,
    depths_m: Tensor,
    lower_m: Sequence[float],
    cell_size_m: Sequence[float],
    grid: Sequence[int],
) -> Tensor:
    """See the contract."""
    _check(logits, len(depths_m), grid)
    weight, context = _split(logits, len(depths_m))
    by_depth, by_pixel, cell = _ranks(rays_m, origins_m, depths_m, lower_m, cell_size_m, grid)
    limits.require_work(len(cell))
    rows = as_rows(grad, logits.shape[0], grid)
    grad_weight, grad_context = vendor_kernels().npu_bev_pool_v3_backward(
        rows, weight, context, by_depth, by_pixel, cell
    )
    grad_depth = weight * (grad_weight - (weight * grad_weight).sum(2, keepdim=True))
    out = torch.cat([grad_depth, grad_context.permute(0, 1, 4, 2, 3)], 2)
    return torch.empty_like(logits).copy_(out)
