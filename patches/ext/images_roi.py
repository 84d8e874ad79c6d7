"""RoIAlign, its rotated form and RoIPool of ``mmcv._ext``: ragged bins, summed or maximised."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from anybev.patches.ext._sampling import (
    Corners,
    Piece,
    add_rows,
    border_corners,
    first_maximum,
    from_rows,
    ragged_pieces,
    sum_rows,
    to_rows,
    working_dtype,
)
from anybev.patches.ext._table import supplies

_LOWEST = torch.finfo(torch.float32).min  # upstream's start of a maximum, for every dtype
_AVERAGE = 1
_PIECE_POOLED = 500_000  # pooled numbers whose gradient is handed out at once


@dataclass(frozen=True)
class _Grid:
    """Where the samples of each region lie.

    Attributes:
        image: (R,) int64, the image of a region.
        low: (R, 2), (y, x) where the first bin begins.
        bin_size: (R, 2), (y, x) of one bin.
        samples: (R, 2) int64, (y, x) a bin; none where the region is empty.
        bins: (rows, columns) of bins.
        turn: what is done with (y, x) of a sample, given its region; None is nothing.
    """

    image: Tensor
    low: Tensor
    bin_size: Tensor
    samples: Tensor
    bins: tuple[int, int]
    turn: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def count(self) -> Tensor:
        """Samples a bin, (R * rows * columns,)."""
        return self.samples.prod(1).repeat_interleave(self.bins[0] * self.bins[1])

    def at(self, piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
        """Region, y and x of the samples of a piece."""
        rows, columns = self.bins
        region = piece.bins // (rows * columns)
        cell = torch.stack((piece.bins // columns % rows, piece.bins % columns), 1)
        across = self.samples[region, 1]
        step = torch.stack((piece.within // across, piece.within % across), 1)
        size, dtype = self.bin_size[region], self.low.dtype
        part = (step.to(dtype) + 0.5) * size / self.samples[region].to(dtype)
        y, x = (self.low[region] + cell.to(dtype) * size + part).unbind(1)
        if self.turn is not None:
            y, x = self.turn(region, y, x)
        return region, y, x


def _samples(size: Tensor, bins: tuple[int, int], sampling_ratio: int) -> Tensor:
    if sampling_ratio > 0:
        return torch.full(size.shape, sampling_ratio, dtype=torch.int64, device=size.device)
    extent = torch.nan_to_num(size / size.new_tensor(bins))
    return torch.ceil(extent).long().clamp(min=0)


def _upright(
    rois: Tensor, bins: tuple[int, int], scale: float, sampling_ratio: int, aligned: bool
) -> _Grid:
    rois = rois.to(working_dtype(rois.dtype))
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    low, high = corners[:, [1, 0]], corners[:, [3, 2]]
    size = high - low
    if not aligned:
        size = size.clamp(min=1)
    samples = _samples(size, bins, sampling_ratio)
    return _Grid(rois[:, 0].long(), low, size / size.new_tensor(bins), samples, bins)


def _rotated(
    rois: Tensor,
    bins: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> _Grid:
    rois = rois.to(working_dtype(rois.dtype))
    center_x, center_y = (rois[:, 1:3] * scale - (0.5 if aligned else 0.0)).unbind(1)
    size = rois[:, [4, 3]] * scale
    if not aligned:
        size = size.clamp(min=1)
    angle = -rois[:, 5] if clockwise else rois[:, 5]
    cos, sin = torch.cos(angle), torch.sin(angle)

    def turn(region: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        c, s = cos[region], sin[region]
        return y * c - x * s + center_y[region], y * s + x * c + center_x[region]

    samples = _samples(size, bins, sampling_ratio)
    return _Grid(rois[:, 0].long(), -size / 2, size / size.new_tensor(bins), samples, bins, turn)


def _corners(grid: _Grid, piece: Piece, height: int, width: int) -> Corners:
    """Pixels of the whole batch that the samples of a piece take part of."""
    region, y, x = grid.at(piece)
    corners = border_corners(y, x, height, width)
    return Corners(corners.index + grid.image[region, None] * (height * width), corners.weight)


def _pixels(images: Tensor) -> Tensor:
    """``to_rows``, at least in float32: a mean of half precision numbers loses its last digits."""
    return to_rows(images.to(working_dtype(images.dtype)))


def _average(grid: _Grid, images: Tensor, output: Tensor) -> None:
    height, width = images.shape[2:]
    rows, count = _pixels(images), grid.count()
    value = rows.new_empty((len(count), rows.shape[1]))
    for piece in ragged_pieces(count):
        corners = _corners(grid, piece, height, width)
        weight = corners.weight / count[piece.bins, None].to(corners.weight.dtype)
        start = piece.start * 4
        value[piece.first : piece.last] = sum_rows(
            rows, corners.index.flatten(), weight.flatten(), start
        )
    _put(value, output)


def _average_backward(grid: _Grid, grad_output: Tensor, grad_input: Tensor) -> None:
    batch, _, height, width = grad_input.shape
    source, count = _pixels(grad_output), grid.count()
    for piece in ragged_pieces(count):
        corners = _corners(grid, piece, height, width)
        weight = corners.weight / count[piece.bins, None].to(corners.weight.dtype)
        line = piece.bins.repeat_interleave(4)
        total = add_rows(
            batch * height * width, corners.index.flatten(), source, line, weight.flatten()
        )
        grad_input += from_rows(total, grad_input.shape)


def _regions(pooled: Tensor) -> Iterator[slice]:
    """Walk (R, C, rows, columns) some regions at a time."""
    step = max(1, _PIECE_POOLED // max(1, pooled[:1].numel()))
    for begin in range(0, len(pooled), step):
        yield slice(begin, begin + step)


def _plane(rois: Tensor, shape: torch.Size) -> Tensor:
    """Where the plane of each region and channel begins in images of ``shape``: (R, C, 1, 1)."""
    channel = torch.arange(shape[1], device=rois.device)
    plane = rois[:, 0].long()[:, None] * shape[1] + channel
    return (plane * (shape[2] * shape[3]))[..., None, None]


def _put(value: Tensor, output: Tensor) -> None:
    """Write (regions * rows * columns, C) into (regions, C, rows, columns)."""
    output.copy_(from_rows(value, output.shape))


@supplies()
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (mmcv ``roi_align_forward``): bilinear samples on a grid in each bin, pooled.

    Args:
        input: (B, C, H, W) float.
        rois: (R, 5), image index and corners x1, y1, x2, y2 in pixels of the unscaled image.
        output: (R, C, aligned_height, aligned_width), set.
        argmax_y: as ``output``; for the maximum, set to y of the largest sample, -1 if none.
        argmax_x: x, likewise.
        aligned_height: bins along y.
        aligned_width: bins along x.
        spatial_scale: pixels of ``input`` a pixel of the regions.
        sampling_ratio: samples a bin and axis; 0 takes as many as the bin is long, rounded up.
        pool_mode: 0 maximum, 1 average.
        aligned: shift by half a pixel; otherwise regions are at least one pixel large.

    A region of no extent averages to 0; its maximum is float32's lowest number, as in upstream's
    CUDA kernel (the CPU kernel has -10000 and rejects negative extents).
    """
    bins = (aligned_height, aligned_width)
    grid = _upright(rois, bins, spatial_scale, sampling_ratio, aligned)
    if pool_mode == _AVERAGE:
        _average(grid, input, output)
        return
    height, width = input.shape[2:]
    rows, count = _pixels(input), grid.count()
    shape = (len(count), rows.shape[1])
    best, best_y, best_x = (rows.new_empty(shape) for _ in range(3))
    for piece in ragged_pieces(count, rows.shape[1]):
        corners = _corners(grid, piece, height, width)
        values = sum_rows(rows, corners.index, corners.weight)
        here = slice(piece.first, piece.last)
        best[here], which = first_maximum(values, piece, _LOWEST)
        _, y, x = grid.at(piece)
        for axis, into in ((y, best_y), (x, best_x)):
            padded = torch.cat((axis, axis.new_full((1,), -1.0)))  # -1 takes the last
            into[here] = padded[which].to(into.dtype)
    for value, into in ((best, output), (best_y, argmax_y), (best_x, argmax_x)):
        _put(value, into)


@supplies()
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of ``roi_align_forward`` by image, added to ``grad_input`` (B, C, H, W)."""
    if pool_mode == _AVERAGE:
        bins = (aligned_height, aligned_width)
        grid = _upright(rois, bins, spatial_scale, sampling_ratio, aligned)
        _average_backward(grid, grad_output, grad_input)
        return
    height, width = grad_input.shape[2:]
    total = grad_input.new_zeros(grad_input.numel())
    dtype = working_dtype(argmax_y.dtype)
    for part in _regions(grad_output):
        y, x = argmax_y[part].to(dtype), argmax_x[part].to(dtype)
        corners = border_corners(y, x, height, width)
        index = corners.index + _plane(rois[part], grad_input.shape)[..., None]
        share = corners.weight * (grad_output[part] * (argmax_y[part] != -1))[..., None]
        total.index_add_(0, index.flatten(), share.to(total.dtype).flatten())
    grad_input += total.view(grad_input.shape)


@supplies()
def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """RoIAlign of turned regions (mmcv ``roi_align_rotated_forward``), averaged.

    Args:
        input: (B, C, H, W) float.
        rois: (R, 6), image index, centre x, y, width, height in pixels of the unscaled image,
            and angle in radians.
        output: (R, C, pooled_height, pooled_width), set.
        pooled_height: bins along the region's height.
        pooled_width: bins along its width.
        spatial_scale: pixels of ``input`` a pixel of the regions.
        sampling_ratio: as in ``roi_align_forward``.
        aligned: as in ``roi_align_forward``.
        clockwise: whether a positive angle turns clockwise in the image.
    """
    bins = (pooled_height, pooled_width)
    grid = _rotated(rois, bins, spatial_scale, sampling_ratio, aligned, clockwise)
    _average(grid, input, output)


@supplies()
def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    /,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Gradient of ``roi_align_rotated_forward`` by image, added to ``grad_input``.

    The tensors go by position only: upstream's binding names them in another order than it takes
    them.
    """
    bins = (pooled_height, pooled_width)
    grid = _rotated(rois, bins, spatial_scale, sampling_ratio, aligned, clockwise)
    _average_backward(grid, grad_output, grad_input)


@supplies()
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Largest pixel of each bin (mmcv ``roi_pool_forward``).

    Args:
        input: (B, C, H, W) float.
        rois: (R, 5), image index and x1, y1, x2, y2 in pixels of the unscaled image, corners
            included: a region ends at x2 + 1.
        output: (R, C, pooled_height, pooled_width), set; 0 for a bin outside the image.
        argmax: as ``output``, int32, set to the row-major pixel, the first of equals; -1 if none.
        pooled_height: bins along y.
        pooled_width: bins along x.
        spatial_scale: pixels of ``input`` a pixel of the regions.

    Outputs of a region without extent are left as they came in, as upstream.
    """
    rois = rois.to(working_dtype(rois.dtype))
    height, width = input.shape[2:]
    bins = (pooled_height, pooled_width)
    low, high = rois[:, [2, 1]] * spatial_scale, (rois[:, [4, 3]] + 1) * spatial_scale
    size = (high - low) / low.new_tensor(bins)
    edges = []
    for axis, limit in ((0, height), (1, width)):
        at = torch.arange(bins[axis] + 1, device=rois.device, dtype=low.dtype)
        at = at * size[:, axis, None] + low[:, axis, None]  # (R, bins + 1)
        begin = at[:, :-1].floor().long().clamp(0, limit)
        edges.append((begin, (at[:, 1:].ceil().long().clamp(0, limit) - begin).clamp(min=0)))
    (top, tall), (left, wide) = edges
    count = (tall[:, :, None] * wide[:, None, :]).flatten()
    rows = to_rows(input)
    best = rows.new_empty((len(count), rows.shape[1]))
    where = torch.empty(best.shape, dtype=argmax.dtype, device=argmax.device)
    for piece in ragged_pieces(count, rows.shape[1]):
        region = piece.bins // (pooled_height * pooled_width)
        row, column = piece.bins // pooled_width % pooled_height, piece.bins % pooled_width
        across = wide[region, column]
        y, x = (
            top[region, row] + piece.within // across,
            left[region, column] + piece.within % across,
        )
        pixel = y * width + x
        values = rows[rois[region, 0].long() * (height * width) + pixel]
        here = slice(piece.first, piece.last)
        largest, which = first_maximum(values, piece, _LOWEST)
        empty = (count[here] == 0)[:, None]
        best[here] = torch.where(empty, 0, largest)
        padded = torch.cat((pixel, pixel.new_full((1,), -1)))
        where[here] = padded[which].to(argmax.dtype)
    valid = (high > low).all(1)[:, None, None, None]
    for value, into in ((best, output), (where, argmax)):
        into.copy_(torch.where(valid, from_rows(value, into.shape), into))


@supplies()
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of ``roi_pool_forward`` by image, added to ``grad_input`` (B, C, H, W)."""
    total = grad_input.new_zeros(grad_input.numel())
    for part in _regions(grad_output):
        index = argmax[part].long().clamp(min=0) + _plane(rois[part], grad_input.shape)
        share = torch.where(argmax[part] >= 0, grad_output[part], 0).to(total.dtype)
        total.index_add_(0, index.flatten(), share.flatten())
    grad_input += total.view(grad_input.shape)
