"""Losses against scalar loops."""

import math

import pytest
import torch

from anybev.models.bevfusion.losses import FocalLoss, GaussianFocalLoss, L1Loss
from anybev.testing.tolerances import tolerances


def test_gaussian_focal_loss_equals_a_loop() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5) * 4, torch.rand(2, 3, 4, 5)
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = 1
    total = 0.0
    for x, t in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = min(max(1 / (1 + math.exp(-x)), 1e-4), 1 - 1e-4)
        total -= math.log(p) * (1 - p) ** 2 if t == 1 else math.log(1 - p) * p**2 * (1 - t) ** 4
    got = GaussianFocalLoss()(logits, target)
    torch.testing.assert_close(got.item(), total / 2, **tolerances(torch.float32))


def test_gaussian_focal_loss_without_a_peak_divides_by_one() -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = GaussianFocalLoss()(logits, torch.zeros(1, 2, 3, 3))
    loss.backward()
    assert loss > 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_losses_are_gradients_of_themselves() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 4, dtype=torch.float32, requires_grad=True)
    labels, weights = torch.tensor([0, 4, 3, 4, 1, 4]), torch.ones(6)
    loss = FocalLoss()(logits, labels, weights, 3.0)
    (grad,) = torch.autograd.grad(loss, logits)
    for i, j in ((0, 0), (1, 2), (4, 1)):
        step = torch.zeros_like(logits)
        step[i, j] = 1e-2
        up, down = (FocalLoss()(logits + s * step, labels, weights, 3.0) for s in (1, -1))
        assert grad[i, j].item() == pytest.approx(((up - down) / 2e-2).item(), abs=1e-4)


def test_half_precision_logits_are_summed_in_float32() -> None:
    half = torch.randn(6, 4).bfloat16()
    labels, ones = torch.randint(0, 5, (6,)), torch.ones(6, 4)
    for logits in (half, half.float()):
        losses = (
            FocalLoss()(logits, labels, ones[:, 0], 1.0),
            GaussianFocalLoss()(logits[None, None], ones[None, None]),
            L1Loss()(logits, ones, ones, 1.0),
        )
        assert all(loss.dtype == torch.float32 for loss in losses)
        if logits is half:
            rounded = losses
    assert all(torch.equal(a, b) for a, b in zip(rounded, losses, strict=True))


def test_only_the_reductions_there_are() -> None:
    for loss in (FocalLoss, GaussianFocalLoss, L1Loss):
        with pytest.raises(ValueError, match="reduction must be mean, got 'sum'"):
            loss(reduction="sum")
    with pytest.raises(ValueError, match="use_sigmoid must be True, got False"):
        FocalLoss(use_sigmoid=False)
