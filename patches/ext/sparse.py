"""Sparse convolution as mmcv.ops asks for it, with pairs and weights in mmcv's layout.

Pairs are ``indicePairs`` (K, 2, N) int32, the input and the output row of each pair of tap k, -1
after the last, and ``indiceNum`` (K,) int32, pairs a tap. Weights are ``[kernel, in, out]``.
Upstream: mmcv/ops/sparse_{ops,functional}.py, csrc/pytorch/cuda/{spconv,sparse_pool}_ops_cuda.cu.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from anybev.device.ops.sparse_conv import sparse_conv, weight_gradient
from anybev.device.ops.sparse_neighbors import SparseNeighbors
from anybev.patches.ext._table import supplies
from anybev.patches.rulebook import (
    Geometry,
    Pairs,
    build_rulebook,
    gradient_of_maximum,
    maximum_of_pairs,
    pairs_by_tap,
    plan_of_table,
    table_of_pairs,
)

# Pairs -> plan made of them: every layer of one indice_key, and its backward, passes one tensor.
_plans = WeakIdKeyDictionary()


def _indice_pairs(
    indices: Tensor,
    batch_size: int,
    out_shape: Sequence[int],
    shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_padding: Sequence[int],
    subm: int,
    transpose: int,
) -> list[Tensor]:
    """``[out_indices, indicePairs, indiceNum]``; the output's sites are in ascending order.

    Submanifold kernels are centred by half their size even when dilated, as in mmcv: a dilated one
    is off its centre there.
    """
    half = tuple(k // 2 for k in kernel_size)
    geometry = Geometry(
        kernel_size=tuple(kernel_size),
        stride=(1,) * len(half) if subm else tuple(stride),
        padding=half if subm else tuple(padding),
        dilation=tuple(dilation),
        output_padding=tuple(out_padding),
        subm=bool(subm),
        transposed=bool(transpose) and not subm,
    )
    cells = tuple(int(size) for size in shape)
    wanted = tuple(int(size) for size in out_shape)
    if geometry.out_shape(cells) != wanted:
        raise ValueError(
            f"get_indice_pairs: outSpatialShape must be {geometry.out_shape(cells)} for "
            f"spatialShape {cells}, got {wanted}"
        )
    book = build_rulebook(indices, cells, int(batch_size), geometry)
    by_tap = pairs_by_tap(book.plan)
    pairs = table_of_pairs(by_tap, len(indices), like=indices)
    counts = indices.new_tensor([len(row) for _, row in by_tap])
    _plans[pairs] = book.plan
    return [book.out_indices, pairs, counts]


def _supply_pairs(axes: int, *, grid: bool) -> None:
    """Register the name that plans over this many axes, with or without a caller's grid."""

    def plan(
        indices: Tensor,
        batchSize: int,
        outSpatialShape: Sequence[int],
        spatialShape: Sequence[int],
        kernelSize: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        outPadding: Sequence[int],
        _subM: int,
        _transpose: int,
    ) -> list[Tensor]:
        if indices.ndim != 2 or indices.shape[1] != 1 + axes:
            raise ValueError(
                f"get_indice_pairs_{axes}d: indices must be (N, {1 + axes}), got "
                f"{tuple(indices.shape)}"
            )
        return _indice_pairs(
            indices,
            batchSize,
            outSpatialShape,
            spatialShape,
            kernelSize,
            stride,
            padding,
            dilation,
            outPadding,
            _subM,
            _transpose,
        )

    def plan_with_grid(indices: Tensor, gridOut: Tensor, *args: Any, **kwargs: Any) -> list[Tensor]:
        return plan(indices, *args, **kwargs)

    chosen: Callable[..., list[Tensor]] = plan_with_grid if grid else plan
    chosen.__name__ = f"get_indice_pairs_{axes}d_{'backward' if grid else 'forward'}"
    chosen.__doc__ = (
        f"Pairs of a sparse convolution over {axes} axes: [out_indices, indicePairs, indiceNum]."
        + (" ``gridOut``, scratch in mmcv, is not used." if grid else "")
    )
    supplies("sparse_neighbors")(chosen)


for _axes in (2, 3, 4):
    _supply_pairs(_axes, grid=False)
for _axes in (2, 3):
    _supply_pairs(_axes, grid=True)


def _pairs(indice_pairs: Tensor, indice_num: Tensor) -> list[Pairs]:
    """(input rows, output rows) of every tap, int64."""
    counts = indice_num.tolist()
    return [
        (taps[0, :count].long(), taps[1, :count].long())
        for taps, count in zip(indice_pairs, counts, strict=True)
    ]


def _plan_of(indice_pairs: Tensor, indice_num: Tensor, sources: int, rows: int) -> SparseNeighbors:
    """The plan that the pairs came from, or one made of them."""
    known: SparseNeighbors | None = _plans.get(indice_pairs)
    if known is not None and (len(known.in_coords), len(known.out_coords)) == (sources, rows):
        return known
    taps = indice_pairs.shape[0]
    table = indice_pairs.new_full((rows, taps), -1)
    place = torch.arange(indice_pairs.shape[2], device=indice_pairs.device)
    tap, column = (place < indice_num.to(place.device)[:, None]).nonzero(as_tuple=True)
    table[indice_pairs[tap, 1, column].long(), tap] = indice_pairs[tap, 0, column]
    plan = plan_of_table(table, sources)
    _plans[indice_pairs] = plan
    return plan


def _taps(filters: Tensor, taps: int) -> Tensor:
    """(taps, Cin, Cout) of ``[kernel, in, out]``.

    A layer whose kernel has more taps than the pairs of its indice_key uses the first of them, as
    in mmcv, which checks nothing: Cylinder3D's blocks are built, and trained, that way.
    """
    channels, out = filters.shape[-2:]
    flat = filters.reshape(-1, channels, out)
    if len(flat) < taps:
        raise ValueError(
            f"indice_conv: filters must have the {taps} taps of the pairs, got {len(flat)}; try "
            "another indice_key"
        )
    return flat[:taps]


def _convolve(features: Tensor, filters: Tensor, plan: SparseNeighbors) -> Tensor:
    """With ``[kernel, in, out]``."""
    weight = _taps(filters, plan.offsets).permute(2, 0, 1)
    weight = weight.reshape(len(weight), *plan.kernel_size, -1)
    return sparse_conv(features, weight, plan)


@supplies("sparse_conv")
def indice_conv_forward(
    features: Tensor,
    filters: Tensor,
    indicePairs: Tensor,
    indiceNum: Tensor,
    numActOut: int,
    _inverse: int,
    _subM: int,
) -> Tensor:
    """Convolve along the pairs.

    Args:
        features: (N, Cin), or (M, Cin) when ``_inverse``.
        filters: (kernel, Cin, Cout).
        indicePairs: (K, 2, N) int32.
        indiceNum: (K,) int32.
        numActOut: rows of the output.
        _inverse: whether to run the pairs from output to input.
        _subM: whether they are of a submanifold convolution; makes no difference.

    Returns:
        (numActOut, Cout).
    """
    rows = (int(numActOut), len(features)) if _inverse else (len(features), int(numActOut))
    plan = _plan_of(indicePairs, indiceNum, *rows)
    return _convolve(features, filters, plan.inverse() if _inverse else plan)


@supplies("sparse_conv")
def indice_conv_backward(
    features: Tensor,
    filters: Tensor,
    outGrad: Tensor,
    indicePairs: Tensor,
    indiceNum: Tensor,
    _inverse: int,
    _subM: int,
) -> list[Tensor]:
    """``[gradient of features, gradient of filters]`` of :func:`indice_conv_forward`."""
    rows = (len(outGrad), len(features)) if _inverse else (len(features), len(outGrad))
    plan = _plan_of(indicePairs, indiceNum, *rows)
    back = plan if _inverse else plan.inverse()
    grad_features = _convolve(outGrad, filters.transpose(-1, -2), back)
    forth = plan.inverse() if _inverse else plan
    grad_weight = weight_gradient(features, outGrad.to(features.dtype), forth)
    grad_filters = filters.new_zeros(filters.shape)
    taps = grad_weight.flatten(1, 3).permute(1, 2, 0)
    grad_filters.flatten(0, -3)[: len(taps)] = taps.to(filters.dtype)
    return [grad_features, grad_filters]


@supplies("sparse_conv")
def fused_indice_conv_forward(
    features: Tensor,
    filters: Tensor,
    bias: Tensor,
    indicePairs: Tensor,
    indiceNum: Tensor,
    numActOut: int,
    _inverse: int,
    _subM: int,
) -> Tensor:
    """:func:`indice_conv_forward` plus a bias.

    mmcv's kernel loses the bias of a submanifold layer (it overwrites the buffer that held it);
    here it is added.
    """
    out = indice_conv_forward(features, filters, indicePairs, indiceNum, numActOut, _inverse, _subM)
    return out + bias.to(out.dtype)


@supplies()
def indice_maxpool_forward(
    features: Tensor, indicePairs: Tensor, indiceNum: Tensor, numAct: int
) -> Tensor:
    """(numAct, C): largest of zero and the features that feed a row, as mmcv starts from zeros."""
    return maximum_of_pairs(features, _pairs(indicePairs, indiceNum), int(numAct))


@supplies()
def indice_maxpool_backward(
    features: Tensor, outFeatures: Tensor, outGrad: Tensor, indicePairs: Tensor, indiceNum: Tensor
) -> Tensor:
    """(N, C): the gradient of each maximum, whole to every feature that equals it."""
    return gradient_of_maximum(features, outFeatures, outGrad, _pairs(indicePairs, indiceNum))
