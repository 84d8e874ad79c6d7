"""Focal losses of ``mmcv._ext``: one value an element, gradients in closed form."""

import torch
from torch import Tensor

from anybev.patches.ext._sampling import working_dtype
from anybev.patches.ext._table import supplies

_SMALLEST = torch.finfo(torch.float32).tiny  # upstream's floor of a logarithm, for every dtype


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=_SMALLEST).log()


def _class_weight(weight: Tensor, target: Tensor) -> Tensor | None:
    """Weight of each row's class, 1 where the label is no class; None without weights.

    Upstream reads past the weights for the background label; 1 leaves the background as it is.
    """
    if not weight.numel():
        return None
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1)


def _sigmoid_terms(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probability, and whether an element is its row's class."""
    p = input.to(working_dtype(input.dtype)).sigmoid()
    return p, target[:, None] == torch.arange(input.shape[1], device=input.device)


@supplies()
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss of every element (mmcv ``sigmoid_focal_loss_forward``).

    Args:
        input: (N, C) float logits.
        target: (N,) int64, the class; C (or any other number) is background: all negative.
        weight: (C,), a factor for the rows of a class, or empty.
        output: (N, C), set.
        gamma: exponent.
        alpha: share of positives.
    """
    p, positive = _sigmoid_terms(input, target)
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * _log(p),
        -(1 - alpha) * p**gamma * _log(1 - p),
    )
    factor = _class_weight(weight, target)
    output.copy_(loss if factor is None else loss * factor[:, None])


@supplies()
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of each element of ``sigmoid_focal_loss_forward``; ``grad_input`` is set."""
    p, positive = _sigmoid_terms(input, target)
    q = 1 - p
    slope = torch.where(
        positive,
        -alpha * q**gamma * (q - gamma * p * _log(p)),
        -(1 - alpha) * p**gamma * (gamma * q * _log(q) - p),
    )
    factor = _class_weight(weight, target)
    grad_input.copy_(slope if factor is None else slope * factor[:, None])


def _own_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of each row's class, and whether the label is a class at all."""
    known = (target >= 0) & (target < softmax.shape[1])
    own = softmax.gather(1, target.clamp(0, softmax.shape[1] - 1)[:, None])[:, 0]
    return own.to(working_dtype(softmax.dtype)), known


@supplies()
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Softmax focal loss of every row (mmcv ``softmax_focal_loss_forward``).

    Args:
        input: (N, C) float, probabilities: the caller has applied the softmax.
        target: (N,) int64, the class; a label that is no class has loss 0 (upstream does this for
            negative ones and reads another row for C).
        weight: (C,), a factor for the rows of a class, or empty.
        output: (N,), set.
        gamma: exponent.
        alpha: factor of all.
    """
    p, known = _own_probability(input, target)
    loss = torch.where(known, -alpha * (1 - p) ** gamma * _log(p), 0)
    factor = _class_weight(weight, target)
    output.copy_(loss if factor is None else loss * factor)


@supplies()
def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of ``softmax_focal_loss_forward`` by the logits.

    Args:
        input: (N, C), probabilities.
        target: (N,) int64.
        weight: (C,) or empty.
        buff: (N,), set to the derivative by the logarithm of the class's probability.
        grad_input: (N, C), set.
        gamma: exponent.
        alpha: factor of all.
    """
    p, known = _own_probability(input, target)
    q = 1 - p
    slope = alpha * (gamma * q ** (gamma - 1) * p * _log(p) - q**gamma)
    slope = torch.where(known, slope, 0)
    factor = _class_weight(weight, target)
    buff.copy_(slope if factor is None else slope * factor)
    own = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_(buff[:, None] * (own.to(input.dtype) - input))
