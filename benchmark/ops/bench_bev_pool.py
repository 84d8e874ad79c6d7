"""Pooling of BEVFusion's lifted points, beside ``torch.index_add`` and the reference."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row
from anybev.benchmark.ops.rig import GRID, load_rig
from anybev.device.ops.bev_pool import bev_pool

NAME = "bev_pool"
PEER = "torch.index_add_"

_CHANNELS = 80


def _index_add(features: Tensor, cells: Tensor) -> Tensor:
    out = features.new_zeros((GRID[0] * GRID[1] * GRID[2], features.shape[1]))
    return out.index_add_(0, cells, features)


def rows(ctx: Context) -> Iterator[Row]:
    """Every frustum point of six cameras that falls on the grid, 80 channels.

    All sides are called as torch operators, without argument checks.
    """
    rig, grid = load_rig(), list(GRID)
    coords = ctx.put(rig.frustum_coords())
    cells = (coords[:, 1].long() * GRID[1] + coords[:, 2]) * GRID[2] + coords[:, 3]
    shape: dict[str, int | list[int]]
    shape = {"points": len(coords), "channels": _CHANNELS, "grid": grid}
    for dtype in (torch.float32, torch.bfloat16):
        features = ctx.put(torch.randn(len(coords), _CHANNELS).to(dtype))
        grad = torch.randn_like(bev_pool(features, coords, 1, grid))
        pooled = (features, coords, 1, grid)
        gathered = (grad, coords, grid, dtype)
        forward = {
            OURS: partial(torch.ops.anybev.bev_pool, *pooled),
            REFERENCE: partial(torch.ops.anybev.bev_pool_reference, *pooled),
        }
        if dtype == torch.float32:
            forward[PEER] = partial(_index_add, features, cells)
        backward = {
            OURS: partial(torch.ops.anybev.bev_pool_backward, *gathered),
            REFERENCE: partial(torch.ops.anybev.bev_pool_backward_reference, *gathered),
        }
        for threads in ctx.threads:
            for direction, sides in (("forward", forward), ("backward", backward)):
                yield from ctx.compare(
                    NAME,
                    "six cameras",
                    sides,
                    shape=shape,
                    direction=direction,
                    threads=threads,
                    dtype=str(dtype).removeprefix("torch."),
                    notes={OURS: rig.origin, PEER: "linear cells given, no checks"},
                )
