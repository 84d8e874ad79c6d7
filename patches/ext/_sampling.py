"""Bilinear sampling as weighted sums of rows, and ragged pooling bins in bounded pieces."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows of one piece: keeps the temporaries of a piece below about 150 MB.
_PIECE_SAMPLES = 400_000
_PIECE_VALUES = 12_000_000


def to_rows(images: Tensor, groups: int = 1) -> Tensor:
    """(B, C, H, W) -> (B * H * W * groups, C / groups): a pixel's channels side by side."""
    b, c, h, w = images.shape
    return images.permute(0, 2, 3, 1).reshape(b * h * w * groups, c // groups)


def from_rows(rows: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Undo ``to_rows`` for images of ``shape`` (B, C, H, W)."""
    b, c, h, w = shape
    return rows.view(b, h, w, c).permute(0, 3, 1, 2)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision cannot hold a pixel coordinate: its coordinates are computed in float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def zero_corners(y: Tensor, x: Tensor, height: int | Tensor, width: int | Tensor) -> "Corners":
    """The pixels around (y, x) in an image that continues as zero: deformable convolution's rule.

    A sample at or beyond -1, ``height`` or ``width`` is zero. Differentiable in y and x; at an
    integer coordinate the derivative is the one towards the next pixel, as upstream's.
    """
    inside = (y > -1) & (x > -1) & (y < height) & (x < width)
    top, left = y.detach().floor(), x.detach().floor()
    dy, dx = y - top, x - left
    index, weight = [], []
    for down in (0, 1):
        for right in (0, 1):
            row, column = top.long() + down, left.long() + right
            there = inside & (row >= 0) & (column >= 0) & (row < height) & (column < width)
            index.append(torch.where(there, row * width + column, 0))
            share = (dy if down else 1 - dy) * (dx if right else 1 - dx)
            weight.append(torch.where(there, share, 0))
    return Corners(torch.stack(index, -1), torch.stack(weight, -1))


def border_corners(y: Tensor, x: Tensor, height: int, width: int) -> "Corners":
    """The pixels around (y, x) in an image whose border pixels reach outwards: RoIAlign's rule.

    Within a pixel of the image a coordinate is pulled onto it; farther out a sample is zero.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    top, down, dy = _pulled(y, height)
    left, right, dx = _pulled(x, width)
    index = [row * width + column for row in (top, down) for column in (left, right)]
    weight = [a * b for a in (1 - dy, dy) for b in (1 - dx, dx)]
    return Corners(torch.stack(index, -1), torch.stack(weight, -1) * inside[..., None])


def _pulled(at: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.nan_to_num(at).clamp(0, size)
    low = at.long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    return low, high, torch.where(low >= size - 1, 0, at - low)


@dataclass(frozen=True)
class Corners:
    """Four pixels a sample.

    Attributes:
        index: (..., 4) int64, row-major pixel of one image.
        weight: (..., 4), zero where a pixel does not count.
    """

    index: Tensor
    weight: Tensor


def sum_rows(rows: Tensor, index: Tensor, weight: Tensor, start: Tensor | None = None) -> Tensor:
    """Weighted sums of rows: one a line of ``index`` (M, S), or one a run that begins at ``start``.

    Differentiable in ``rows`` and ``weight``.
    """
    weight = weight.to(rows.dtype)
    return F.embedding_bag(index, rows, start, mode="sum", per_sample_weights=weight)


def add_rows(count: int, index: Tensor, source: Tensor, line: Tensor, weight: Tensor) -> Tensor:
    """The transpose of ``sum_rows``, (count, C).

    ``weight[i] * source[line[i]]`` is added to row ``index[i]``; index, line and weight are flat.
    """
    order = torch.argsort(index, stable=True)
    size = torch.bincount(index, minlength=count)
    return sum_rows(source, line[order], weight[order], torch.cumsum(size, 0) - size)


@dataclass(frozen=True)
class Piece:
    """Some bins of a ragged pooling and their samples.

    Attributes:
        first, last: the bins are ``first .. last - 1``.
        start: (bins,) int64, where a bin's samples begin in this piece.
        bins: (samples,) int64, the bin of a sample, counted from 0 over all pieces.
        within: (samples,) int64, which sample of its bin.
    """

    first: int
    last: int
    start: Tensor
    bins: Tensor
    within: Tensor


def ragged_pieces(count: Tensor, channels: int = 0) -> Iterator[Piece]:
    """Walk bins with ``count`` (bins,) int64 samples each, a bounded number of samples at a time.

    ``channels`` says that a value a sample and channel will be held, which makes pieces smaller.
    """
    limit = min(_PIECE_SAMPLES, _PIECE_VALUES // channels) if channels else _PIECE_SAMPLES
    end = torch.cumsum(count, 0)
    edges = [0]
    ends = end.cpu()
    while edges[-1] < len(ends):
        done = int(ends[edges[-1] - 1]) if edges[-1] else 0
        fits = int(torch.searchsorted(ends, done + limit, right=True))
        edges.append(max(fits, edges[-1] + 1))
    for first, last in pairwise(edges):
        part = count[first:last]
        start = torch.cumsum(part, 0) - part
        bins = torch.repeat_interleave(torch.arange(len(part), device=count.device), part)
        within = torch.arange(len(bins), device=count.device) - start[bins]
        yield Piece(first, last, start, bins + first, within)


def first_maximum(values: Tensor, piece: Piece, floor: float) -> tuple[Tensor, Tensor]:
    """Largest value above ``floor`` of each bin and channel, and the first sample that has it.

    Args:
        values: (samples, C) of ``piece``.
        piece: says which bin a sample is in.
        floor: what a bin without a larger value gets, with sample -1; within the dtype's range.

    Returns:
        (bins, C) of ``values``' dtype, and (bins, C) int64, counted within the piece.
    """
    shape = (piece.last - piece.first, values.shape[1])
    floor = max(floor, torch.finfo(values.dtype).min)
    local = (piece.bins - piece.first)[:, None].expand_as(values)
    best = values.new_full(shape, floor).scatter_reduce_(0, local, values, "amax")
    which = torch.arange(len(values), device=values.device)[:, None].expand_as(values)
    never = len(values)
    which = torch.where((values == best.gather(0, local)) & (values > floor), which, never)
    first = which.new_full(shape, never).scatter_reduce_(0, local, which, "amin")
    return best, torch.where(first == never, -1, first)
