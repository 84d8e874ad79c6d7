"""Deformable attention of mmcv._ext against loops and against mmcv's own slow version."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext import images_attention
from anybev.patches.ext.images_attention import ms_deform_attn_backward, ms_deform_attn_forward
from anybev.testing.tolerances import tolerances

SHAPES = [(4, 6), (2, 3), (1, 1)]


def arguments(batch: int = 2, queries: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """value, shapes, starts, locations (some outside), weights."""
    generator = torch.Generator().manual_seed(9)
    shapes = torch.tensor(SHAPES)
    starts = torch.tensor([0, 24, 30])
    heads, points = 2, 3
    value = torch.randn((batch, 31, heads, 4), generator=generator, dtype=torch.float64)
    locations = torch.rand((batch, queries, heads, 3, points, 2), generator=generator).double()
    weights = torch.rand((batch, queries, heads, 3, points), generator=generator).double()
    return [value.to(dtype), shapes, starts, (locations * 1.4 - 0.2).to(dtype), weights.to(dtype)]


def loops(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads, levels, points, _ = locations.shape
    result = value.new_zeros(batch, queries, heads, value.shape[3])
    for b, q, h, level, p in product(*map(range, (batch, queries, heads, levels, points))):
        height, width = SHAPES[level]
        first = sum(a * c for a, c in SHAPES[:level])
        x, y = locations[b, q, h, level, p].tolist()
        x, y = x * width - 0.5, y * height - 0.5
        for row, column in product(
            (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
        ):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                key = value[b, first + row * width + column, h]
                result[b, q, h] += key * share * float(weights[b, q, h, level, p])
    return result.flatten(2)


@pytest.fixture(params=[1_500_000, 100], ids=["whole", "pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(images_attention, "_PIECE_CORNERS", request.param)
    return int(request.param)


def test_forward_equals_loops(pieces: int) -> None:
    value, shapes, starts, locations, weights = arguments()
    output = ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step=64)
    assert output.shape == (2, 5, 8)
    torch.testing.assert_close(
        output, loops(value, locations, weights), **tolerances(torch.float64)
    )


def test_value_gradient_is_added_and_the_others_are_set(pieces: int) -> None:
    tensors = arguments()
    grad_output = torch.randn(2, 5, 8, dtype=torch.float64)
    results = []
    for start in (0.0, 3.0):
        into = [torch.full_like(tensors[i], start) for i in (0, 3, 4)]
        ms_deform_attn_backward(*tensors, grad_output, *into, im2col_step=64)
        results.append(into)
    torch.testing.assert_close(results[1][0], results[0][0] + 3, **tolerances(torch.float64))
    for once, again in zip(results[0][1:], results[1][1:], strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0)])
def test_nothing_asked_gives_nothing(batch: int, queries: int) -> None:
    tensors = arguments(batch, queries)
    output = ms_deform_attn_forward(*tensors, im2col_step=64)
    assert output.shape == (batch, queries, 8)
    into = [torch.zeros_like(tensors[i]) for i in (0, 3, 4)]
    ms_deform_attn_backward(*tensors, output, *into, im2col_step=64)
    assert not any(grad.any() for grad in into)


def test_equals_mmcv_s_slow_version_and_gradcheck(host: list[Outcome], pieces: int) -> None:
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    value, shapes, starts, locations, weights = arguments()
    leaves = [t.requires_grad_() for t in (value, locations, weights)]

    def fast(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)

    slow = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    quick = fast(*leaves)
    torch.testing.assert_close(quick, slow, **tolerances(torch.float64))
    grad = torch.randn_like(slow)
    for got, want in zip(
        torch.autograd.grad(quick, leaves, grad),
        torch.autograd.grad(slow, leaves, grad),
        strict=True,
    ):
        torch.testing.assert_close(got, want, **tolerances(torch.float64))
    assert torch.autograd.gradcheck(fast, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lower_precision_stays_near_float64(dtype: torch.dtype) -> None:
    tensors = arguments(dtype=dtype)
    wide = [t.double() if t.is_floating_point() else t for t in tensors]
    output = ms_deform_attn_forward(*tensors, im2col_step=64)
    assert output.dtype == dtype
    expected = ms_deform_attn_forward(*wide, im2col_step=64)
    torch.testing.assert_close(output.double(), expected, **tolerances(dtype))
