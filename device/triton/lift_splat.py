"""Lift and splat by the Triton kernels: what they want, and their order.

Deterministic, without atomics: points are sorted by cell, and one program sums a cell in the order
of pixel and depth; in the gradient one program owns a pixel. The lifted volume never exists: beside
the logits and the sums there are one cell, weight and pixel number a point.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from anybev.device.ops._checks import sum_dtype
from anybev.device.triton import check_runs_on, launch
from anybev.device.triton.lift_splat_kernel import (
    PIXELS,
    POINTS,
    TILE,
    channel_block,
    find_cells,
    gradient,
    sum_cells,
)

_INDEX_LIMIT = (1 << 31) - 1
_DEPTH_LIMIT = TILE


def _check_fits(logits: Tensor, depths: int, grid: Sequence[int]) -> None:
    cells, channels = grid[0] * grid[1] * grid[2], logits.shape[2] - depths
    if depths > _DEPTH_LIMIT:
        raise ValueError(
            f"lift_splat: depths_m must be at most {_DEPTH_LIMIT} depths in the Triton kernel, got "
            f"{depths}"
        )
    if max(cells * channels, logits.numel() // max(len(logits), 1)) > _INDEX_LIMIT:
        raise ValueError(
            "lift_splat: a sample must have at most 2^31 - 1 logits and 2^31 - 1 sums in the "
            f"Triton kernel, got logits {tuple(logits.shape)} and grid {list(grid)}"
        )


class _Problem:
    """One call: rows of logits, weights, geometry and sizes as the kernels want them."""

    def __init__(
        self,
        logits: Tensor,
        rays_m: Tensor,
        origins_m: Tensor,
        depths_m: Tensor,
        lower_m: Sequence[float],
        cell_size_m: Sequence[float],
        grid: Sequence[int],
    ) -> None:
        self.depths = len(depths_m)
        _check_fits(logits, self.depths, grid)
        check_runs_on("lift_splat", gradient, logits.device)
        self.device, self.depths_m = logits.device, depths_m.contiguous()
        self.rows = logits.movedim(2, -1).to(sum_dtype(logits.dtype)).contiguous()
        self.channels = self.rows.shape[-1] - self.depths
        self.weights = self.rows[..., : self.depths].softmax(-1)
        self.rays = rays_m.flatten(1, 3).transpose(1, 2).contiguous()
        self.origins = origins_m.contiguous()
        self.picture_pixels = logits.shape[3] * logits.shape[4]
        self.pixels = logits.shape[1] * self.picture_pixels
        self.cells = grid[0] * grid[1] * grid[2]
        self.bounds = (*lower_m, *cell_size_m)
        self.grid = dict(zip(("NX", "NY", "NZ"), grid, strict=True))
        self.depth_block = triton.next_power_of_2(self.depths)

    def points(self, b: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample ``b``: weights and pixels of its points by cell, and where each cell begins."""
        cell = self.rows.new_empty((self.pixels, self.depths), dtype=torch.int32)
        tasks = (self.pixels // max(self.picture_pixels, 1)) * triton.cdiv(
            self.picture_pixels, PIXELS
        )
        launch(
            find_cells, tasks, self.device, self.rays[b], self.origins[b], self.depths_m, cell,
            self.pixels, self.picture_pixels, tasks, *self.bounds, **self.grid,
            D=self.depths, PIXELS=PIXELS, DEPTHS=self.depth_block,
        )  # fmt: skip
        ordered, order = cell.flatten().sort(stable=True)
        every = torch.arange(self.cells + 1, dtype=torch.int32, device=self.device)
        starts = torch.searchsorted(ordered, every, out_int32=True)
        pixels = torch.div(order, self.depths, rounding_mode="floor").to(torch.int32)
        return self.weights[b].flatten()[order], pixels, starts


def forward(logits: Tensor, *geometry: Any) -> Tensor:
    """The operator's result; arguments as in ``anybev.device.ops.lift_splat``.

    Raises:
        MachineError: the logits are on the CPU and the kernels are not interpreted.
        ValueError: a sample is too large for the kernels.
    """
    problem = _Problem(logits, *geometry)
    nx, ny, nz = geometry[-1]
    channels = problem.channels
    out = problem.rows.new_empty((len(logits), problem.cells, channels))
    block = channel_block(channels, TILE // POINTS)
    for b in range(len(logits)):
        context = problem.rows[b].flatten(0, 2)[:, problem.depths :]
        launch(
            sum_cells, problem.cells, problem.device, *problem.points(b), context, out[b],
            problem.cells, STRIDE=problem.depths + channels, C=channels, POINTS=POINTS,
            CHANNELS=block,
        )  # fmt: skip
    return out.view(len(logits), nx, ny, nz * channels).permute(0, 3, 1, 2)


def backward(grad: Tensor, logits: Tensor, *geometry: Any) -> Tensor:
    """The gradient of the logits, in their dtype and memory format.

    Raises:
        MachineError: the logits are on the CPU and the kernels are not interpreted.
        ValueError: a sample is too large for the kernels.
    """
    problem = _Problem(logits, *geometry)
    result = torch.empty_like(logits)
    rows = result.movedim(2, -1)
    in_place = rows.is_contiguous() and rows.dtype == problem.rows.dtype
    out = rows if in_place else torch.empty_like(problem.rows)
    grad_rows = grad.permute(0, 2, 3, 1).to(problem.rows.dtype).contiguous()
    block = channel_block(problem.channels, TILE // problem.depth_block)
    for b in range(len(logits)):
        launch(
            gradient, problem.pixels, problem.device, grad_rows[b], problem.weights[b],
            problem.rows[b], problem.rays[b], problem.origins[b], problem.depths_m, out[b],
            problem.pixels, problem.picture_pixels, *problem.bounds, **problem.grid,
            D=problem.depths, C=problem.channels, DEPTHS=problem.depth_block,
            CHANNELS=block,
        )  # fmt: skip
    if not in_place:
        rows.copy_(out)
    return result
