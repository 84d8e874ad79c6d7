"""bev_pool and its gradient through ``mx_driving.bev_pool_v3`` without depths.

mx_driving reads a point's cell from columns (h, w, d, b) and returns (B, C, D, H, W). With h = x, w
= y * Z + z and d = 0 its map is ours up to the order of axes. The kernel does not check cells, so
the contract's check runs first. float16 and bfloat16 are raised to float32, which is the only dtype
the kernel takes and the one the contract returns. Sums run in no fixed order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor, vendor_kernels
from anybev.device.ops.bev_pool import linear_cells


def bev_pool(features: Tensor, coords: Tensor, batch_size: int, grid: Sequence[int]) -> Tensor:
    """See the contract."""
    nx, ny, nz = grid
    limits.require_work(*features.shape)
    limits.require_single("features", features)
    limits.require_pool(features.shape[1], batch_size, grid)
    linear_cells(coords, batch_size, grid)  # raises for a cell outside the grid
    b, x, y, z = coords.unbind(1)
    geometry = torch.stack([x, y * nz + z, torch.zeros_like(z), b], 1)
    shape = [batch_size, 1, nx, ny * nz, features.shape[1]]
    pooled: Tensor = vendor().bev_pool_v3(
        None, features.float().contiguous(), None, None, geometry, shape
    )
    return as_map(pooled, nz)


def bev_pool_backward(
    grad: Tensor, coords: Tensor, grid: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """See the contract."""
    batch_size, channels = grad.shape[0], grad.shape[1] // grid[2]
    limits.require_work(coords.shape[0], channels)
    limits.require_single("grad", grad)
    limits.require_pool(channels, batch_size, grid)
    ranks = linear_cells(coords, batch_size, grid).int()
    rows = as_rows(grad, batch_size, grid)
    like = rows.new_empty((coords.shape[0], channels))  # only its shape is read without depths
    _, out = vendor_kernels().npu_bev_pool_v3_backward(rows, None, like, None, None, ranks)
    gathered: Tensor = out.to(dtype)
    return gathered


def as_map(pooled: Tensor, nz: int) -> Tensor:
    """(B, C, 1, X, Y * Z) as (B, Z * C, X, Y), channel z * C + c, in channels-last memory."""
    rows: Tensor = pooled.squeeze(2).unflatten(3, (-1, nz)).permute(0, 2, 3, 4, 1)
    return rows.flatten(3).permute(0, 3, 1, 2)


def as_rows(grad: Tensor, batch_size: int, grid: Sequence[int]) -> Tensor:
    """Gradient of :func:`as_map` as the kernel reads it: (B, 1, X, Y * Z, C) float32."""
    nx, ny, nz = grid
    rows = grad.permute(0, 2, 3, 1).float().contiguous()
    return rows.view(batch_size, 1, nx, ny * nz, -1)
