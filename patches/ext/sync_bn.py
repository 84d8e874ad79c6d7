"""Synchronised batch normalisation of ``mmcv._ext``: what one process does; mmcv does the rest."""

import torch
from torch import Tensor

from anybev.patches.ext._table import supplies


def _channel(values: Tensor) -> Tensor:
    """(C,) as it broadcasts over (N, C, S)."""
    return values[:, None]


@supplies()
def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Mean of each channel of ``input`` (N, C, S); ``mean`` (C,) float32 is set."""
    mean.copy_(input.to(mean.dtype).mean((0, 2)))


@supplies()
def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Mean square distance from ``mean`` (C,) of ``input`` (N, C, S); ``var`` (C,) is set."""
    var.copy_((input.to(mean.dtype) - _channel(mean)).square().mean((0, 2)))


@supplies()
def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor | None,
    std: Tensor | None,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalise, and move the running statistics (mmcv ``sync_bn_forward_output``).

    Args:
        input: (N, C, S) float.
        mean: (C,) float32, over all processes.
        var: (C,) float32, over all processes, biased.
        weight: (C,) or None.
        bias: (C,) or None.
        running_mean: (C,) or None, moved in place.
        running_var: (C,) or None, moved in place, by the unbiased variance.
        norm: (N, C, S) float32 or None, set to the values before weight and bias.
        std: (C,) float32 or None, set.
        output: (N, C, S), set.
        eps: added to the variance.
        momentum: share of this batch in the running statistics; a number or one element.
        group_size: processes, each with as many values as this one.
    """
    deviation = torch.sqrt(var + eps)
    normal = (input.to(mean.dtype) - _channel(mean)) / _channel(deviation)
    if norm is not None:
        norm.copy_(normal)
    if std is not None:
        std.copy_(deviation)
    if weight is not None and bias is not None:
        normal = normal * _channel(weight) + _channel(bias)
    output.copy_(normal)
    if running_mean is not None and running_var is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * count / (count - 1) if count > 1 else var
        for running, now in ((running_mean, mean), (running_var, unbiased)):
            running.copy_(momentum * now + (1 - momentum) * running)


@supplies()
def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Gradients by weight and bias, both (C,), set; ``grad_output`` and ``norm`` are (N, C, S)."""
    grad = grad_output.to(norm.dtype)
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


@supplies()
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Gradient by the input, (N, C, S), set.

    Args:
        grad_output: (N, C, S).
        weight: (C,).
        grad_weight: (C,), averaged over processes.
        grad_bias: (C,), averaged over processes.
        norm: (N, C, S) of the forward pass.
        std: (C,) of the forward pass.
        grad_input: (N, C, S), set.
    """
    count = grad_output.shape[0] * grad_output.shape[2]
    shift = (_channel(grad_weight) * norm + _channel(grad_bias)) / count
    slope = _channel(weight) * (grad_output.to(norm.dtype) - shift) / _channel(std)
    grad_input.copy_(slope)
