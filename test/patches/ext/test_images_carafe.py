"""CARAFE of mmcv._ext against loops, and through mmcv's own wrappers."""

from itertools import product

import pytest
import torch
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext.images_carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from anybev.testing.tolerances import tolerances

CASES = [(1, 1, 2), (3, 1, 2), (5, 2, 3), (3, 4, 1)]  # kernel, groups, scale


def arguments(kernel: int, groups: int, scale: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn((2, 4, 3, 5), generator=generator, dtype=torch.float64)
    shape = (2, groups * kernel**2, 3 * scale, 5 * scale)
    return features, torch.randn(shape, generator=generator, dtype=torch.float64)


def loops(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    n, c, h, w = features.shape
    result = []
    for b, channel, y, x in product(range(n), range(c), range(h * scale), range(w * scale)):
        total = features.new_zeros(())
        for i, j in product(range(kernel), range(kernel)):
            row, column = y // scale + i - kernel // 2, x // scale + j - kernel // 2
            if 0 <= row < h and 0 <= column < w:
                tap = (channel // (c // groups) * kernel + i) * kernel + j
                total = total + features[b, channel, row, column] * masks[b, tap, y, x]
        result.append(total)
    return torch.stack(result).view(n, c, h * scale, w * scale)


@pytest.mark.parametrize("case", CASES)
def test_equals_loops(case: tuple[int, int, int]) -> None:
    features, masks = (t.requires_grad_() for t in arguments(*case))
    expected = loops(features, masks, *case)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (features, masks), grad)
    features, masks, expected = features.detach(), masks.detach(), expected.detach()

    output = torch.full_like(expected, torch.nan)
    carafe_naive_forward(features, masks, output, *case)
    torch.testing.assert_close(output, expected, **tolerances(torch.float64))
    into = [torch.ones_like(t) for t in (features, masks)]
    carafe_naive_backward(grad, features, masks, *into, *case)
    for got, want in zip(into, wanted, strict=True):
        torch.testing.assert_close(got, want + 1, **tolerances(torch.float64))

    last = [torch.zeros_like(t) for t in (features, expected, masks)]
    carafe_forward(features, masks, *last, output.fill_(torch.nan), *case)
    torch.testing.assert_close(output, expected, **tolerances(torch.float64))
    for moved, first in zip(last, (features, output, masks), strict=True):
        assert torch.equal(moved, first.permute(0, 2, 3, 1))
    scratch = [torch.empty(0)] * 4
    into = [torch.full_like(t, torch.nan) for t in (features, masks)]
    carafe_backward(grad, last[0], masks, *scratch, *into, *case)
    for got, want in zip(into, wanted, strict=True):
        torch.testing.assert_close(got, want, **tolerances(torch.float64))


def test_through_mmcv(host: list[Outcome]) -> None:
    from mmcv.ops import CARAFEPack, carafe, carafe_naive

    for case in CASES:
        leaves = tuple(t.requires_grad_() for t in arguments(*case))
        assert torch.autograd.gradcheck(
            lambda f, m, case=case: carafe(f, m, *case), leaves, fast_mode=True
        )
        assert torch.equal(carafe(*leaves, *case), carafe_naive(*leaves, *case))
    layer = CARAFEPack(4, 2)
    layer(torch.randn(1, 4, 5, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
