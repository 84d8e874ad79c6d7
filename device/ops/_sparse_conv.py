"""Plain-PyTorch reference of sparse_conv and its weight gradient, any device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from anybev.device.ops._sparse_spec import TILE

# What a convolution reads of a plan: ``pair_source`` (P,) int32, ``pair_row`` (P,) int16 and
# ``tile_ptr`` (tiles * K + 1,) int32 of its ``PairLists``, then a vendor's tensors, if any.
Payload = list[Tensor]


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums of products of ``dtype`` are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _pairs_by_offset(gather: Payload, offsets: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(offset, source rows, output rows) of every kernel offset, both int64, rows ascending."""
    source, local_row, tile_ptr = gather[:3]
    counts = tile_ptr.diff().long()
    segment = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    rows = segment // offsets * TILE + local_row
    order = (segment % offsets).argsort(stable=True)
    sizes = counts.view(-1, offsets).sum(0).tolist()
    start = 0
    for offset, size in enumerate(sizes):
        pairs = order[start : start + size]
        yield offset, source[pairs].long(), rows[pairs]
        start += size


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gather: Payload,
    scatter: Payload,
    rows: int,
) -> Tensor:
    """Output of the convolution."""
    wide = accumulator_dtype(features.dtype)
    rounded = weight.to(features.dtype).to(wide).flatten(1, 3)
    out = features.new_zeros((rows, weight.shape[0]), dtype=wide)
    if bias is not None:
        out += bias
    for offset, sources, targets in _pairs_by_offset(gather, rounded.shape[1]):
        gathered = features.index_select(0, sources).to(wide)
        out.index_add_(0, targets, gathered @ rounded[:, offset].t())
    return out.to(features.dtype)


def fake_convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gather: Payload,
    scatter: Payload,
    rows: int,
) -> Tensor:
    """Shape of :func:`convolve`."""
    return features.new_empty((rows, weight.shape[0]))


def correlate(
    features: Tensor, grad: Tensor, gather: Payload, scatter: Payload, offsets: int
) -> Tensor:
    """(Cout, K, Cin) gradient of the weight."""
    wide = accumulator_dtype(features.dtype)
    out = features.new_zeros((grad.shape[1], offsets, features.shape[1]), dtype=wide)
    for offset, sources, targets in _pairs_by_offset(gather, offsets):
        gathered = features.index_select(0, sources).to(wide)
        out[:, offset] = grad.index_select(0, targets).to(wide).t() @ gathered
    return out


def fake_correlate(
    features: Tensor, grad: Tensor, gather: Payload, scatter: Payload, offsets: int
) -> Tensor:
    """Shape of :func:`correlate`."""
    shape = (grad.shape[1], offsets, features.shape[1])
    return features.new_empty(shape, dtype=accumulator_dtype(features.dtype))
