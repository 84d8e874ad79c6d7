"""Cells of a map in windows and back, as moves of whole rows of memory.

A window takes its cells from several rows of the map, each head its own channels of each cell. Done
by padding, rolling and transposing that is five copies a block, most of them with short strides,
and more in the backward pass. Here it is one: every (cell, head) is a row that moves to its place,
and its gradient moves back, without sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowLayout:
    """Where rows of a map (B, H, W, parts, heads) go in windows (parts, B, windows, heads, cells).

    Attributes:
        to_windows: (rows in windows,) int32, the map's row that each takes; 0 in holes.
        to_map: (rows of the map,) int32, the row in windows that holds each.
        holes: (filled cells, parts * heads) int64, rows in windows that are not on the map.
        windows: windows of one map.
    """

    to_windows: Tensor
    to_map: Tensor
    holes: Tensor
    windows: int


@lru_cache(maxsize=16)  # each holds tensors on its device; a Swin needs eight for a picture size
def window_layout(
    shape: tuple[int, int, int],
    parts: int,
    heads: int,
    window: int,
    shift: int,
    device: torch.device,
) -> WindowLayout:
    """Layout of maps of ``shape`` (B, H, W) in windows that are moved by ``shift`` cells.

    The map is filled up to whole windows below and on the right, then windows are cut ``shift``
    further down and right, going round at the border.

    Args:
        shape: samples, rows and columns of the maps.
        parts: 3 for queries, keys and values, else 1.
        heads: attention heads.
        window: cells along a window's side.
        shift: cells.
        device: where the indices live.
    """
    batch, height, width = shape
    rows, columns = height + -height % window, width + -width % window
    with torch.inference_mode(False):  # training may reuse what an evaluation made
        cells = torch.full((rows, columns), -1)
        cells[:height, :width] = torch.arange(height * width).view(height, width)
        cells = cells.roll((-shift, -shift), (0, 1))
        cells = cells.view(rows // window, window, columns // window, window).transpose(1, 2)
        cells = cells.reshape(1, 1, -1, 1, window * window)
        sample = torch.arange(batch).view(1, -1, 1, 1, 1)
        part = torch.arange(parts).view(-1, 1, 1, 1, 1)
        head = torch.arange(heads).view(1, 1, 1, -1, 1)
        source = ((sample * height * width + cells) * parts + part) * heads + head
        filled = (cells < 0).expand(source.shape)
        by_cell = torch.arange(source.numel()).view(source.shape).permute(1, 2, 4, 0, 3)
        holes = by_cell[filled.permute(1, 2, 4, 0, 3)].view(-1, parts * heads)
        source = source.masked_fill(filled, -1).flatten()
        place = torch.empty(batch * height * width * parts * heads, dtype=torch.int64)
        kept = source >= 0
        place[source[kept]] = kept.nonzero().squeeze(1)
        return WindowLayout(
            to_windows=source.clamp(min=0).int().to(device),
            to_map=place.int().to(device),
            holes=holes.to(device),
            windows=rows * columns // window**2,
        )


class MapToWindows(torch.autograd.Function):
    """Rows of maps to rows in windows; holes take the rows of ``fill``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, fill: Tensor, layout: WindowLayout) -> Tensor:
        """(rows of the map, D) and (parts * heads, D) to (rows in windows, D)."""
        ctx.layout = layout
        out = rows.index_select(0, layout.to_windows)
        if layout.holes.numel():
            filled = fill.repeat(len(layout.holes), 1)
            out.index_copy_(0, layout.holes.flatten(), filled)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Each row's gradient moves back; those of holes add up."""
        layout: WindowLayout = ctx.layout
        filled = grad.index_select(0, layout.holes.flatten())
        filled = filled.view(*layout.holes.shape, grad.shape[1]).sum(0)
        return grad.index_select(0, layout.to_map), filled, None


class WindowsToMap(torch.autograd.Function):
    """Rows in windows to rows of maps; holes are left out."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: WindowLayout) -> Tensor:
        """(rows in windows, D) to (rows of the map, D)."""
        ctx.layout = layout
        return rows.index_select(0, layout.to_map)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Each row's gradient moves back; holes have none."""
        layout: WindowLayout = ctx.layout
        out = grad.index_select(0, layout.to_windows)
        return out.index_fill_(0, layout.holes.flatten(), 0), None
