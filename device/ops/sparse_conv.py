"""Sparse 3D convolution over a neighbour plan: submanifold, strided and inverse.

``out[m] = bias + sum_k weight[:, k, :] @ features[n]`` over the neighbours n of site m at kernel
offset k: cross-correlation like ``torch.nn.functional.conv3d`` where only occupied cells count.
The plan (:class:`anybev.device.ops.sparse_neighbors.SparseNeighbors`) decides which of the three
convolutions it is, so one operator serves all of them, and the gradient of the features is the
same operator on the transposed plan.

Sources: Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks",
CVPR 2018; weight layout of spconv 2.x, ``[out, kx, ky, kz, in]``.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from anybev.device.ops._checks import (
    check_dtype,
    check_floating,
    check_length,
    check_same_device,
)
from anybev.device.ops._contract import Contract
from anybev.device.ops.sparse_neighbors import TILE, PairLists, SparseNeighbors

# What a convolution reads of a plan: ``pair_source`` (P,) int32, ``pair_row`` (P,) int16 and
# ``tile_ptr`` (tiles * K + 1,) int32 of its ``PairLists``.
Payload = list[Tensor]


def sparse_conv(
    features: Tensor, weight: Tensor, plan: SparseNeighbors, bias: Tensor | None = None
) -> Tensor:
    """Convolve the features of ``plan.in_coords`` into features of ``plan.out_coords``.

    Sums are accumulated in float32 (float64 for float64 input) in the order of the kernel offsets,
    each output row by one thread: on CPU the compiled kernel gives the same bits for any number of
    threads. Under autocast the features are cast to autocast's dtype, which the output then has;
    the weight is rounded to it inside, so its gradient stays in the weight's own dtype.

    Args:
        features: (N, Cin) features of the input sites, in the row order of ``plan.in_coords``;
            float32, float64, bfloat16 or float16.
        weight: (Cout, kx, ky, kz, Cin), of the features' dtype or float32.
        plan: neighbours of every output site; ``plan.inverse()`` gives the transposed convolution.
        bias: (Cout,), of the weight's dtype.

    Returns:
        (M, Cout), of the features' dtype (of autocast's under autocast).

    Raises:
        TypeError: a dtype is not one of the above.
        ValueError: a shape or a device does not fit the plan.
    """
    _check(features, weight, plan, bias)
    kind = features.device.type
    if torch.is_autocast_enabled(kind) and features.dtype != torch.float64:
        features = features.to(torch.get_autocast_dtype(kind))
    scatter: Payload = []
    if torch.is_grad_enabled() and features.requires_grad and not plan.is_symmetric:
        scatter = _payload(plan.transposed_pairs)
    rows = len(plan.out_coords)
    out: Tensor = _CONV(features, weight, bias, _payload(plan.forward_pairs), scatter, rows)
    return out


def weight_gradient(features: Tensor, grad: Tensor, plan: SparseNeighbors) -> Tensor:
    """(Cout, kx, ky, kz, Cin), float32 or float64: gradient of the weight; carries none itself.

    Args:
        features: (N, Cin) features that were convolved.
        grad: (M, Cout) gradient of the output, of the features' dtype.
        plan: of that convolution.
    """
    lists: tuple[Payload, Payload] = _payload(plan.forward_pairs), []
    out: Tensor = _GRAD_WEIGHT(features.detach(), grad.detach(), *lists, plan.offsets)
    return out.reshape(-1, *plan.kernel_size, features.shape[1])


def _payload(pairs: PairLists) -> Payload:
    return [pairs.pair_source, pairs.pair_row, pairs.tile_ptr]


def _check(features: Tensor, weight: Tensor, plan: SparseNeighbors, bias: Tensor | None) -> None:
    check_floating("sparse_conv", "features", features)
    check_dtype("sparse_conv", "weight", weight, features.dtype, torch.float32)
    sites = len(plan.in_coords)
    if features.ndim != 2 or features.shape[0] != sites:
        raise ValueError(
            f"sparse_conv: features must be ({sites}, Cin) for this plan, got "
            f"{tuple(features.shape)}"
        )
    kernel = tuple(plan.kernel_size)
    if weight.ndim != 5 or weight.shape[1:] != (*kernel, features.shape[1]):
        wanted = ", ".join(str(n) for n in ("Cout", *kernel, features.shape[1]))
        raise ValueError(
            f"sparse_conv: weight must be ({wanted}), got {tuple(weight.shape)}; try a checkpoint "
            "loader that knows the layout it comes from"
        )
    check_same_device("sparse_conv", "weight", weight, features.device)
    check_same_device("sparse_conv", "plan", plan.out_coords, features.device)
    if bias is not None:
        check_dtype("sparse_conv", "bias", bias, weight.dtype)
        check_length("sparse_conv", "bias", bias, weight.shape[0])
        check_same_device("sparse_conv", "bias", bias, features.device)


def _accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _pairs_by_offset(gather: Payload, offsets: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(offset, source rows, output rows) of every kernel offset, both int64, rows ascending."""
    source, local_row, tile_ptr = gather
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


def _reference(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gather: Payload,
    scatter: Payload,
    rows: int,
) -> Tensor:
    wide = _accumulator_dtype(features.dtype)
    rounded = weight.to(features.dtype).to(wide).flatten(1, 3)
    out = features.new_zeros((rows, weight.shape[0]), dtype=wide)
    if bias is not None:
        out += bias
    for offset, sources, targets in _pairs_by_offset(gather, rounded.shape[1]):
        gathered = features.index_select(0, sources).to(wide)
        out.index_add_(0, targets, gathered @ rounded[:, offset].t())
    return out.to(features.dtype)


def _fake(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gather: Payload,
    scatter: Payload,
    rows: int,
) -> Tensor:
    return features.new_empty((rows, weight.shape[0]))


def _grad_weight_reference(
    features: Tensor, grad: Tensor, gather: Payload, scatter: Payload, offsets: int
) -> Tensor:
    wide = _accumulator_dtype(features.dtype)
    out = features.new_zeros((grad.shape[1], offsets, features.shape[1]), dtype=wide)
    for offset, sources, targets in _pairs_by_offset(gather, offsets):
        gathered = features.index_select(0, sources).to(wide)
        out[:, offset] = grad.index_select(0, targets).to(wide).t() @ gathered
    return out


def _grad_weight_fake(
    features: Tensor, grad: Tensor, gather: Payload, scatter: Payload, offsets: int
) -> Tensor:
    shape = (grad.shape[1], offsets, features.shape[1])
    return features.new_empty(shape, dtype=_accumulator_dtype(features.dtype))


_CONV = Contract(
    "sparse_conv",
    "(Tensor features, Tensor weight, Tensor? bias, Tensor[] gather, Tensor[] scatter, int rows)"
    " -> Tensor",
    reference=_reference,
    fake=_fake,
)
_GRAD_WEIGHT = Contract(
    "sparse_conv_grad_weight",
    "(Tensor features, Tensor grad, Tensor[] gather, Tensor[] scatter, int offsets) -> Tensor",
    reference=_grad_weight_reference,
    fake=_grad_weight_fake,
    public="sparse_conv",
)


def _transposed_conv(
    grad: Tensor, weight: Tensor, gather: Payload, scatter: Payload, rows: int
) -> Tensor:
    """Gradient of the features: the convolution that runs every pair the other way.

    Without ``scatter`` the plan is submanifold, where offset k of one direction is offset K-1-k of
    the other, so flipping the weight serves for the transposed lists.
    """
    turned = weight.permute(4, 1, 2, 3, 0)
    if scatter:
        out: Tensor = _CONV(grad, turned, None, scatter, gather, rows)
    else:
        out = _CONV(grad, turned.flip(1, 2, 3), None, gather, [], rows)
    return out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, bias, ctx.gather, ctx.scatter, _ = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(features, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    features, weight = ctx.saved_tensors
    lists = ctx.gather, ctx.scatter
    grad_features = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_features = _transposed_conv(grad, weight, *lists, features.shape[0])
    if ctx.needs_input_grad[1]:
        grad_weight = _GRAD_WEIGHT(features, grad, *lists, weight[0, ..., 0].numel())
        grad_weight = grad_weight.reshape(weight.shape).to(weight.dtype)
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum(0, dtype=_accumulator_dtype(grad.dtype)).to(ctx.bias_dtype)
    return grad_features, grad_weight, grad_bias, *([None] * len(part) for part in lists), None


def _save_grad_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, grad, ctx.gather, ctx.scatter, _ = inputs
    ctx.save_for_backward(features, grad)


def _grad_weight_backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    features, grad = ctx.saved_tensors
    lists = ctx.gather, ctx.scatter
    weight = cotangent[:, :, None, None, :]
    grad_features = grad_grad = None
    if ctx.needs_input_grad[0]:
        grad_features = _transposed_conv(grad, weight, *lists, features.shape[0])
    if ctx.needs_input_grad[1]:
        grad_grad = _CONV(features, weight, None, *lists, grad.shape[0])
    return grad_features, grad_grad, *([None] * len(part) for part in lists), None


_CONV.register_autograd(_backward, setup_context=_save)
_GRAD_WEIGHT.register_autograd(_grad_weight_backward, setup_context=_save_grad_weight)
