"""Shifts in time, turned filters and turned feature alignment of mmcv._ext against loops."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext.images_aligned import (
    active_rotated_filter_backward,
    active_rotated_filter_forward,
    rotated_feature_align_backward,
    rotated_feature_align_forward,
    tin_shift_backward,
    tin_shift_forward,
)
from anybev.testing.tolerances import tolerances


@pytest.mark.parametrize("shift", [tin_shift_forward, tin_shift_backward])
def test_shift_moves_forwards_in_both_passes(shift: object) -> None:
    frames, output = torch.randn(2, 4, 6, 3), torch.full((2, 4, 6, 3), 9.0)
    steps = torch.tensor([[1, -2, 0], [3, 4, -1]], dtype=torch.int32)
    expected = output.clone()
    for n, t, c in product(range(2), range(4), range(6)):
        arrives = t + int(steps[n, c // 2])
        if 0 <= arrives < 4:
            expected[n, arrives, c] = frames[n, t, c]
    shift(frames, steps, output)  # type: ignore[operator]
    assert torch.equal(output, expected)


def test_filters_turn_and_turn_back() -> None:
    planes, channels, entries, turns = 2, 3, 18, 4
    generator = torch.Generator().manual_seed(8)
    where = torch.stack([torch.randperm(entries, generator=generator) for _ in range(turns)], 1)
    indices = (where + 1).view(2, 3, 3, turns).int()
    filters = torch.randn((planes, channels, 2, 3, 3), dtype=torch.float64)
    output = torch.full((planes * turns, channels * 2, 3, 3), torch.nan, dtype=torch.float64)
    active_rotated_filter_forward(filters, indices, output)
    expected = torch.empty(planes, turns, channels, entries, dtype=torch.float64)
    for entry, turn in product(range(entries), range(turns)):
        expected[:, turn, :, where[entry, turn]] = filters.flatten(2)[:, :, entry]
    assert torch.equal(output, expected.view(output.shape))

    grad, into = torch.randn_like(output), torch.full_like(filters, torch.nan)
    active_rotated_filter_backward(grad, indices, into)
    # The passes are each other's transpose.
    torch.testing.assert_close((into * filters).sum(), (grad * output).sum())


def add_loops(features: Tensor, boxes: Tensor, scale: float, points: int) -> Tensor:
    """The definition, a pixel at a time; differentiable."""
    batch, channels, height, width = features.shape
    result = []
    for n, h, w in product(range(batch), range(height), range(width)):
        y, x, along, across, angle = boxes[n, h, w].tolist()
        cos, sin = math.cos(angle), math.sin(angle)
        total = features[n, :, h, w]
        corners = [(0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1)]
        for a, b in corners[:points]:
            a, b = a * along * scale / 2, b * across * scale / 2
            at_y, at_x = y * scale + sin * a + cos * b, x * scale + cos * a - sin * b
            if not (-1 <= at_y <= height and -1 <= at_x <= width):
                continue
            at_y, at_x = min(max(at_y, 0), height - 1), min(max(at_x, 0), width - 1)
            rows = range(math.floor(at_y), math.ceil(at_y) + 1)
            for r, c in product(rows, range(math.floor(at_x), math.ceil(at_x) + 1)):
                share = (1 - abs(at_y - r)) * (1 - abs(at_x - c))
                total = total + share * features[n, :, r, c]
        result.append(total)
    return torch.stack(result).view(batch, height, width, channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("points", [1, 5])
def test_feature_alignment_equals_loops(points: int) -> None:
    generator = torch.Generator().manual_seed(7)
    features = torch.randn((2, 3, 4, 5), generator=generator, dtype=torch.float64)
    features.requires_grad_()
    boxes = torch.rand((2, 4, 5, 5), generator=generator, dtype=torch.float64) * 20 - 2
    expected = add_loops(features, boxes, 0.25, points)
    output = torch.full_like(expected, torch.nan)
    with torch.no_grad():
        rotated_feature_align_forward(features, boxes, output, 0.25, points)
    torch.testing.assert_close(output, expected.detach(), **tolerances(torch.float64))
    grad, into = torch.randn_like(output), torch.ones_like(output)
    (wanted,) = torch.autograd.grad(expected, features, grad)
    rotated_feature_align_backward(grad, boxes, into, 0.25, points)
    torch.testing.assert_close(into, wanted + 1, **tolerances(torch.float64))


def test_through_mmcv(host: list[Outcome]) -> None:
    from mmcv.ops import rotated_feature_align

    features = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    boxes = torch.rand(1, 3, 4, 5, dtype=torch.float64) * 10
    assert torch.autograd.gradcheck(
        lambda f: rotated_feature_align(f, boxes, 0.25, 5), (features,), fast_mode=True
    )
