"""Sparse 3D convolution over a neighbour plan: submanifold, strided and inverse.

``out[m] = bias + sum_k weight[:, k, :] @ features[n]`` over the neighbours n of site m at kernel
offset k: cross-correlation like ``torch.nn.functional.conv3d`` where only occupied cells count.
The plan (:class:`anybev.device.ops.sparse_neighbors.SparseNeighbors`) decides which of the three
convolutions it is, so one operator serves all of them, and the gradient of the features is the
same operator on the transposed plan.

Sources: Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks",
CVPR 2018; weight layout of spconv 2.x, ``[out, kx, ky, kz, in]``.
"""

from typing import Any

import torch
from torch import Tensor

from anybev import envs
from anybev.device import cuda_spconv
from anybev.device.ops._checks import (
    check_dtype,
    check_floating,
    check_length,
    check_same_device,
)
from anybev.device.ops._contract import Contract
from anybev.device.ops._sparse_conv import (
    Payload,
    accumulator_dtype,
    convolve,
    correlate,
    fake_convolve,
    fake_correlate,
)
from anybev.device.ops.sparse_neighbors import SparseNeighbors


def sparse_conv(
    features: Tensor, weight: Tensor, plan: SparseNeighbors, bias: Tensor | None = None
) -> Tensor:
    """Convolve the features of ``plan.in_coords`` into features of ``plan.out_coords``.

    Sums are accumulated in float32 (float64 for float64 input) in the order of the kernel offsets,
    each output row by one thread: on CPU the compiled kernel gives the same bits for any number of
    threads, on CUDA it gives the same bits each time. Under autocast the features are cast to
    autocast's dtype, which the output then has; the weight is rounded to it inside, so its gradient
    stays in the weight's own dtype.

    CUDA multiplies float16 and bfloat16 on tensor cores; float32 exactly, or in TF32 where the user
    allows that for products of matrices (``torch.backends.cuda.matmul.allow_tf32``). Lists that
    name other features than there are, an error on CPU, make the sums they belong to NaN there.
    With ``ANYBEV_SPARSE_CONV=spconv`` an installed spconv convolves, see
    :mod:`anybev.device.cuda_spconv`.

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
        ValueError: a shape or a device does not fit the plan, or spconv is asked for elsewhere than
            on CUDA.
        MachineError: spconv is asked for and not installed.
    """
    _check(features, weight, plan, bias)
    kind = features.device.type
    if torch.is_autocast_enabled(kind) and features.dtype != torch.float64:
        features = features.to(torch.get_autocast_dtype(kind))
    wanted = envs.sparse_conv_vendor() and _CONV.implementation("cuda") == "vendor"
    if wanted and plan.forward_pairs.pair_source.numel():
        return cuda_spconv.convolve(features, weight, plan, bias)
    scatter: Payload = []
    if torch.is_grad_enabled() and features.requires_grad and not plan.is_symmetric:
        scatter = plan.transposed_payload
    out: Tensor = _CONV(features, weight, bias, plan.payload, scatter, len(plan.out_coords))
    return out


def weight_gradient(features: Tensor, grad: Tensor, plan: SparseNeighbors) -> Tensor:
    """(Cout, kx, ky, kz, Cin), float32 or float64: gradient of the weight; carries none itself.

    Args:
        features: (N, Cin) features that were convolved.
        grad: (M, Cout) gradient of the output, of the features' dtype.
        plan: of that convolution.
    """
    out: Tensor = _GRAD_WEIGHT(features.detach(), grad.detach(), plan.payload, [], plan.offsets)
    return out.reshape(-1, *plan.kernel_size, features.shape[1])


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


_CONV = Contract(
    "sparse_conv",
    "(Tensor features, Tensor weight, Tensor? bias, Tensor[] gather, Tensor[] scatter, int rows)"
    " -> Tensor",
    reference=convolve,
    fake=fake_convolve,
)
_GRAD_WEIGHT = Contract(
    "sparse_conv_grad_weight",
    "(Tensor features, Tensor grad, Tensor[] gather, Tensor[] scatter, int offsets) -> Tensor",
    reference=correlate,
    fake=fake_correlate,
    public="sparse_conv",
)


def _both_reference(
    grad: Tensor, features: Tensor, weight: Tensor, gather: Payload, scatter: Payload
) -> tuple[Tensor, Tensor]:
    grad_features = _transposed_conv(grad, weight, gather, scatter, features.shape[0])
    return grad_features, _weight_gradient(features, grad, gather, scatter, weight)


def _both_fake(
    grad: Tensor, features: Tensor, weight: Tensor, gather: Payload, scatter: Payload
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), weight.new_empty(weight.shape)


# Both gradients at once, for devices whose kernel computes them together.
_BOTH = Contract(
    "sparse_conv_backward",
    "(Tensor grad, Tensor features, Tensor weight, Tensor[] gather, Tensor[] scatter)"
    " -> (Tensor grad_features, Tensor grad_weight)",
    reference=_both_reference,
    fake=_both_fake,
    public="sparse_conv",
)


def _weight_gradient(
    features: Tensor, grad: Tensor, gather: Payload, scatter: Payload, weight: Tensor
) -> Tensor:
    """Gradient in the shape and dtype of the weight."""
    offsets = weight[0, ..., 0].numel()
    out: Tensor = _GRAD_WEIGHT(features, grad, gather, scatter, offsets)
    return out.reshape(weight.shape).to(weight.dtype)


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
    if ctx.needs_input_grad[0] and ctx.needs_input_grad[1] and not torch.is_grad_enabled():
        grad_features, grad_weight = _BOTH(grad, features, weight, *lists)
    elif ctx.needs_input_grad[0]:
        grad_features = _transposed_conv(grad, weight, *lists, features.shape[0])
    if ctx.needs_input_grad[1] and grad_weight is None:
        grad_weight = _weight_gradient(features, grad, *lists, weight)
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum(0, dtype=accumulator_dtype(grad.dtype)).to(ctx.bias_dtype)
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
_BOTH.register_no_gradient()
_GRAD_WEIGHT.register_autograd(_grad_weight_backward, setup_context=_save_grad_weight)
