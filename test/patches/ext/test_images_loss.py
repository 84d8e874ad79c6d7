"""Focal losses of mmcv._ext against the formulas, autograd and mmdet's plain PyTorch loss."""

import math

import pytest
import torch
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext.images_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from anybev.testing.tolerances import tolerances

GAMMA, ALPHA = 2.5, 0.3
SMALLEST = torch.finfo(torch.float32).tiny
NO_WEIGHT = torch.empty(0, dtype=torch.float64)


def logits() -> tuple[Tensor, Tensor]:
    """(6, 4) logits, some extreme, and labels of which 4 is background."""
    values = torch.randn((6, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values[3] *= 30
    return values, torch.tensor([0, 3, 4, 1, 2, 4])


def test_sigmoid_loss_equals_its_formula() -> None:
    values, target = logits()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    for factors in (NO_WEIGHT, weight):
        output = torch.full_like(values, torch.nan)
        sigmoid_focal_loss_forward(values, target, factors, output, GAMMA, ALPHA)
        for n, row in enumerate(values.tolist()):
            label = int(target[n])
            factor = float(weight[label]) if len(factors) and label < 4 else 1.0
            for c, x in enumerate(row):
                p = 1 / (1 + math.exp(-x))
                if c == label:
                    loss = -ALPHA * (1 - p) ** GAMMA * math.log(max(p, SMALLEST))
                else:
                    loss = -(1 - ALPHA) * p**GAMMA * math.log(max(1 - p, SMALLEST))
                assert output[n, c].item() == pytest.approx(loss * factor, rel=1e-6, abs=1e-12)


def test_sigmoid_slope_is_the_derivative() -> None:
    values, target = logits()
    values = values.clamp(-9, 9).requires_grad_()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    positive = target[:, None] == torch.arange(4)
    p = values.sigmoid()
    loss = (
        torch.where(
            positive,
            -ALPHA * (1 - p) ** GAMMA * p.log(),
            -(1 - ALPHA) * p**GAMMA * (1 - p).log(),
        )
        * torch.cat((weight, weight.new_ones(1)))[target, None]
    )
    (expected,) = torch.autograd.grad(loss.sum(), values)
    slope = torch.full_like(values, torch.nan)
    sigmoid_focal_loss_backward(values.detach(), target, weight, slope, GAMMA, ALPHA)
    torch.testing.assert_close(slope, expected, **tolerances(torch.float64))


def test_softmax_loss_and_gradient_equal_autograd() -> None:
    values, target = logits()
    values = values.clamp(-9, 9).requires_grad_()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    known = (target < 4).nonzero()[:, 0]
    softmax = values.softmax(1)
    p = softmax[known, target[known]]
    loss = -ALPHA * (1 - p) ** GAMMA * p.log() * weight[target[known]]
    (expected,) = torch.autograd.grad(loss.sum(), values)
    output, buff = (torch.full((6,), torch.nan, dtype=torch.float64) for _ in range(2))
    grad = torch.full_like(values, torch.nan)
    softmax = softmax.detach()
    softmax_focal_loss_forward(softmax, target, weight, output, GAMMA, ALPHA)
    softmax_focal_loss_backward(softmax, target, weight, buff, grad, GAMMA, ALPHA)
    torch.testing.assert_close(output[known], loss.detach(), **tolerances(torch.float64))
    assert output[target == 4].tolist() == [0, 0]
    torch.testing.assert_close(grad, expected, **tolerances(torch.float64))


def test_no_rows_give_nothing() -> None:
    none, label = torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    sigmoid_focal_loss_forward(none, label, torch.empty(0), none.clone(), GAMMA, ALPHA)
    softmax_focal_loss_forward(none, label, torch.empty(0), torch.empty(0), GAMMA, ALPHA)


def test_half_precision_is_finite_where_a_probability_is_one() -> None:
    values = torch.tensor([[20.0, -20.0]], dtype=torch.float16)
    output, slope = torch.zeros_like(values), torch.zeros_like(values)
    arguments = (values, torch.tensor([1]), torch.empty(0, dtype=torch.float16))
    sigmoid_focal_loss_forward(*arguments, output, GAMMA, ALPHA)
    sigmoid_focal_loss_backward(*arguments, slope, GAMMA, ALPHA)
    assert output.isfinite().all()
    assert slope.isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_through_mmcv_equals_mmdet_s_plain_loss(host: list[Outcome], reduction: str) -> None:
    from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    values, target = logits()
    values = values.clamp(-9, 9).requires_grad_()
    loss = sigmoid_focal_loss(values, target, GAMMA, ALPHA, None, reduction)
    one_hot = (target[:, None] == torch.arange(4)).double()
    plain = py_sigmoid_focal_loss(values, one_hot, gamma=GAMMA, alpha=ALPHA, reduction="sum")
    if reduction == "mean":
        plain = plain / len(values)
    torch.testing.assert_close(loss, plain, **tolerances(torch.float64))
    torch.testing.assert_close(
        *(torch.autograd.grad(t, values)[0] for t in (loss, plain)), **tolerances(torch.float64)
    )
    for kind in (sigmoid_focal_loss, softmax_focal_loss):
        labels = target.clamp(max=3)
        assert torch.autograd.gradcheck(
            lambda v, kind=kind, labels=labels: kind(v, labels, GAMMA, ALPHA, None, reduction),
            (values.detach().clone().requires_grad_(),),
        )
