"""Plans of sparse convolutions in any number of dimensions, dilated and transposed ones too.

What :mod:`anybev.device.ops.sparse_neighbors` plans (up to three dimensions, neither dilated nor
transposed) it plans here as well, the missing axes being one cell wide. The rest is built from
sorted keys in plain torch and wrapped in the same kind of plan, so ``sparse_conv`` runs it: a
kernel of K taps in n dimensions is then one of (K, 1, 1).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from anybev.device.ops._sparse_plan import pairs_of_table
from anybev.device.ops.sparse_neighbors import PairLists, SparseNeighbors, sparse_neighbors

Sizes = tuple[int, ...]
Pairs = tuple[Tensor, Tensor]

_MAX_CELLS = 1 << 62  # cells are numbered in int64
_PLANNED_AXES = 3


@dataclass(frozen=True)
class Geometry:
    """Which input cells an output cell reads; one number an axis of the grid.

    Tap k of output o reads input ``o * stride - padding + k * dilation``; of a transposed one,
    input i feeds output ``i * stride - padding + k * dilation``.

    Attributes:
        subm: outputs at the input's cells only, whatever the kernel reaches.
        transposed: the stride is one of outputs.
        output_padding: cells added at the end of a transposed grid.
    """

    kernel_size: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    output_padding: Sizes
    subm: bool = False
    transposed: bool = False

    @property
    def taps(self) -> int:
        """K, in C order: the last axis runs fastest."""
        return math.prod(self.kernel_size)

    @property
    def is_symmetric(self) -> bool:
        """Whether tap k backwards is tap K-1-k forwards."""
        axes = zip(self.kernel_size, self.padding, self.dilation, strict=True)
        return self.subm and all(k % 2 == 1 and p == k // 2 * d for k, p, d in axes)

    @property
    def is_planned(self) -> bool:
        """Whether ``sparse_neighbors`` plans it."""
        plain = not self.transposed and max(self.dilation) == 1
        few = len(self.kernel_size) <= _PLANNED_AXES
        return plain and few and (self.is_symmetric or not self.subm)

    def out_shape(self, shape: Sizes) -> Sizes:
        """Cells of the output grid over an input grid of ``shape``."""
        if self.subm:
            return shape
        size = _transposed_size if self.transposed else _size
        return tuple(
            size(*axis)
            for axis in zip(
                shape,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                self.output_padding,
                strict=True,
            )
        )


def _size(cells: int, kernel: int, stride: int, padding: int, dilation: int, _: int) -> int:
    return (cells + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _transposed_size(
    cells: int, kernel: int, stride: int, padding: int, _: int, output_padding: int
) -> int:
    # As spconv and mmcv count it: without the dilation.
    return (cells - 1) * stride - 2 * padding + kernel + output_padding


@dataclass(frozen=True, eq=False)
class Rulebook:
    """A plan and the sites in the caller's number of columns.

    Attributes:
        plan: what ``sparse_conv`` runs.
        out_indices: (M, 1 + axes) int32; ascending, but the input's own for ``subm``.
        out_shape: cells of the output grid.
    """

    plan: SparseNeighbors
    out_indices: Tensor
    out_shape: Sizes


def build_rulebook(indices: Tensor, shape: Sizes, batch_size: int, geometry: Geometry) -> Rulebook:
    """Plan one convolution.

    Args:
        indices: (N, 1 + axes) int32, columns (batch, cells), unique rows inside the grid.
        shape: cells of the input grid.
        batch_size: samples.
        geometry: of the convolution.

    Raises:
        TypeError: indices are no int32 tensor.
        ValueError: an index is outside the grid or there twice; no output cell is left.
    """
    out_shape = geometry.out_shape(shape)
    if min(out_shape) < 1:
        raise ValueError(
            f"spconv: the output grid must have a cell along each axis, got {out_shape} from "
            f"{shape} with kernel_size {geometry.kernel_size}, stride {geometry.stride}, padding "
            f"{geometry.padding}"
        )
    if geometry.is_planned:
        return _planned(indices, shape, batch_size, geometry)
    return _sorted(indices, shape, batch_size, geometry)


def _planned(indices: Tensor, shape: Sizes, batch_size: int, geometry: Geometry) -> Rulebook:
    """By the operator; axes that are missing are one cell wide and come first."""
    missing = _PLANNED_AXES - len(shape)
    coords = indices
    if missing:
        flat = indices.new_zeros((len(indices), missing))
        coords = torch.cat([indices[:, :1], flat, indices[:, 1:]], 1)
    ones = (1,) * missing
    plan = sparse_neighbors(
        coords,
        (*ones, *shape),
        batch_size,
        kernel_size=(*ones, *geometry.kernel_size),
        stride=(*ones, *geometry.stride),
        padding=(*(0,) * missing, *geometry.padding),
        mode="subm" if geometry.subm else "strided",
    )
    out = indices if geometry.subm else plan.out_coords
    if missing and not geometry.subm:
        out = torch.cat([out[:, :1], out[:, 1 + missing :]], 1)
    return Rulebook(plan, out, geometry.out_shape(shape))


def _keys(cells: Tensor, shape: Sizes) -> Tensor:
    """Linear position of int64 (batch, cells) rows, ascending as the rows are."""
    key = cells[:, 0]
    for axis, size in enumerate(shape, 1):
        key = key * size + cells[:, axis]
    return key


def _cells(keys: Tensor, shape: Sizes) -> Tensor:
    """Inverse of :func:`_keys`, int32."""
    columns = []
    for size in reversed(shape):
        columns.append(keys % size)
        keys = keys // size
    return torch.stack([keys, *reversed(columns)], 1).int()


def _checked(indices: Tensor, shape: Sizes, batch_size: int, out_shape: Sizes) -> Tensor:
    """The rows as int64, after the checks that the operator makes of its own."""
    if indices.dtype != torch.int32:
        raise TypeError(f"spconv: indices must be int32, got {indices.dtype}")
    if indices.ndim != 2 or indices.shape[1] != 1 + len(shape):
        raise ValueError(
            f"spconv: indices must be (N, {1 + len(shape)}), got {tuple(indices.shape)}"
        )
    if batch_size * max(math.prod(shape), math.prod(out_shape)) >= _MAX_CELLS:
        raise ValueError(
            f"spconv: spatial_shape must give fewer than 2^62 cells a batch, got {shape}"
        )
    cells = indices.long()
    outside = ((cells < 0) | (cells >= cells.new_tensor([batch_size, *shape]))).any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"spconv: indices must lie below {(batch_size, *shape)} and not be negative, got "
            f"{tuple(indices[row].tolist())} in row {row}"
        )
    return cells


def _reach(cells: Tensor, geometry: Geometry, out_shape: Sizes) -> list[Pairs]:
    """(input rows, keys of the output cells they feed) of every tap."""
    stride, padding = cells.new_tensor(geometry.stride), cells.new_tensor(geometry.padding)
    dilation, limit = cells.new_tensor(geometry.dilation), cells.new_tensor(out_shape)
    taps = torch.cartesian_prod(
        *(torch.arange(k, device=cells.device) for k in geometry.kernel_size)
    ).reshape(geometry.taps, -1)
    reached = []
    for tap in taps * dilation:
        if geometry.transposed and not geometry.subm:
            out = cells[:, 1:] * stride - padding + tap
            hit = ((out >= 0) & (out < limit)).all(1)
        else:
            moved = cells[:, 1:] + padding - tap
            out = moved // stride
            hit = ((moved >= 0) & (moved % stride == 0) & (out < limit)).all(1)
        source = hit.nonzero()[:, 0]
        reached.append((source, _keys(torch.cat([cells[:, :1], out], 1)[source], out_shape)))
    return reached


def _sorted(indices: Tensor, shape: Sizes, batch_size: int, geometry: Geometry) -> Rulebook:
    """By sorted keys and binary search."""
    out_shape = geometry.out_shape(shape)
    cells = _checked(indices, shape, batch_size, out_shape)
    keys, order = _keys(cells, shape).sort()
    if (keys[1:] == keys[:-1]).any():
        row = int(order[1:][keys[1:] == keys[:-1]][0])
        raise ValueError(
            f"spconv: indices must be unique rows, got {tuple(indices[row].tolist())} more than "
            "once"
        )
    reached = _reach(cells, geometry, out_shape)
    if not geometry.subm:
        keys = torch.unique(torch.cat([key for _, key in reached]))
        order = torch.arange(len(keys), device=keys.device)
    table = indices.new_full((len(keys), geometry.taps), -1)
    for tap, (source, key) in enumerate(reached):
        if len(keys):
            found = torch.searchsorted(keys, key).clamp_(max=len(keys) - 1)
            hit = keys[found] == key
            table[order[found[hit]], tap] = source[hit].int()
    out = indices if geometry.subm else _cells(keys, out_shape)
    plan = plan_of_table(table, len(indices), symmetric=geometry.is_symmetric)
    return Rulebook(plan, out, out_shape)


def plan_of_table(table: Tensor, sources: int, *, symmetric: bool = False) -> SparseNeighbors:
    """A plan made of who feeds whom, without a grid: its sites have no columns.

    Args:
        table: (M, K) int32, the row that feeds row m through tap k, or -1.
        sources: rows that feed.
        symmetric: whether tap k backwards is tap K-1-k forwards.
    """
    rows, taps = table.shape
    return SparseNeighbors(
        in_coords=table.new_empty((sources, 0)),
        out_coords=table.new_empty((rows, 0)),
        in_shape=(1, 1, 1),
        out_shape=(1, 1, 1),
        batch_size=1,
        kernel_size=(taps, 1, 1),
        stride=(1, 1, 1),
        padding=(0, 0, 0),
        mode="subm" if symmetric else "strided",
        forward_pairs=PairLists(*pairs_of_table(table)),
    )


def pairs_by_tap(plan: SparseNeighbors) -> list[Pairs]:
    """(source rows, rows) of every tap, int64, rows ascending."""
    by_tap = plan.table.t()
    present = by_tap >= 0
    tap, row = present.nonzero(as_tuple=True)
    sizes = present.sum(1).tolist()
    source = by_tap[tap, row].long()
    return list(zip(source.split(sizes), row.split(sizes), strict=True))


def table_of_pairs(pairs: Sequence[Pairs], width: int, like: Tensor) -> Tensor:
    """(K, 2, width): source rows and rows of every tap side by side, -1 after the last."""
    table = like.new_full((len(pairs), 2, width), -1)
    for tap, (source, row) in enumerate(pairs):
        table[tap, 0, : len(source)] = source
        table[tap, 1, : len(row)] = row
    return table


def maximum_of_pairs(features: Tensor, pairs: Iterable[Pairs], rows: int) -> Tensor:
    """(rows, C): the largest of zero and the features that feed a row.

    Zero, because spconv and mmcv start from zeros: a row fed by negative features only is 0.
    """
    out = features.new_zeros((rows, features.shape[1]))
    for source, row in pairs:
        out[row] = torch.maximum(out[row], features[source])
    return out


def gradient_of_maximum(
    features: Tensor, out: Tensor, grad: Tensor, pairs: Iterable[Pairs]
) -> Tensor:
    """Gradient of :func:`maximum_of_pairs`: whole to each feature that equals the maximum."""
    result = torch.zeros_like(features)
    for source, row in pairs:
        result.index_add_(0, source, grad[row] * (features[source] == out[row]))
    return result


class MaximumOfPairs(torch.autograd.Function):
    """:func:`maximum_of_pairs` with its gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, pairs: list[Pairs], rows: int) -> Tensor:
        """Largest of zero and what feeds a row."""
        out = maximum_of_pairs(features, pairs, rows)
        ctx.pairs = pairs
        ctx.save_for_backward(features, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the features."""
        features, out = ctx.saved_tensors
        return gradient_of_maximum(features, out, grad, ctx.pairs), None, None
