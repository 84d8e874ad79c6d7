"""scatter_points on the simulated npu: through mx_driving's contract, as on the CPU."""

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops.scatter_points import REDUCES, scatter_points
from anybev.testing import simnpu
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same


def points(
    draw: Generator, count: int, channels: int, extents: tuple[int, ...], low: int = 0
) -> tuple[Tensor, Tensor]:
    columns = [torch.randint(low, n, (count,), generator=draw) for n in extents]
    return torch.randn(count, channels, generator=draw), torch.stack(columns, 1).int()


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("extents", [(6,), (4, 3, 2), (2, 4, 3, 2)])
def test_equals_the_cpu(
    mx: Binding, draw: Generator, reduce: str, dtype: torch.dtype, extents: tuple[int, ...]
) -> None:
    features, coords = points(draw, 50, 7, extents, low=-1)
    assert_same(
        lambda f, c: scatter_points(f, c, reduce), features.to(dtype).requires_grad_(), coords
    )
    assert "npu_dynamic_scatter" in mx.calls


def test_wide_coordinates_and_int64(mx: Binding, draw: Generator) -> None:
    features, coords = points(draw, 60, 8, (1024, 1024, 1024))
    coords[0], coords[1] = 0, 1023
    assert_same(lambda f, c: scatter_points(f, c, "mean"), features[:, ::2], coords.long()[:60])
    assert "npu_dynamic_scatter" in mx.calls


@pytest.mark.parametrize(
    ("extents", "channels", "reason"),
    [
        ((1024, 1024, 1025), 4, "cells must be at most 1073741824, got 1074790400"),
        ((4, 4, 4), 2049, "channels must be at most 2048, got 2049"),
    ],
)
def test_limits(
    mx: Binding, draw: Generator, extents: tuple[int, ...], channels: int, reason: str
) -> None:
    features, coords = points(draw, 30, channels, extents)
    coords[0], coords[1] = 0, torch.tensor(extents) - 1
    with pytest.warns(KernelFallbackWarning, match=f"^scatter_points: .* {reason}$"):
        assert_same(lambda f, c: scatter_points(f, c, "max"), features, coords)
    assert mx.calls == []


def test_float64_stays_float64(mx: Binding, draw: Generator) -> None:
    features, coords = points(draw, 20, 8, (3, 3))
    with simnpu.allow_float64(), pytest.warns(KernelFallbackWarning, match="not be float64"):
        assert_same(lambda f, c: scatter_points(f, c, "sum"), features.double(), coords)


def test_nothing_to_reduce_is_no_call(mx: Binding, draw: Generator) -> None:
    features, coords = points(draw, 9, 4, (3, 3))
    assert_same(lambda f, c: scatter_points(f, c, "sum"), features[:0], coords[:0])
    assert_same(lambda f, c: scatter_points(f, c, "sum"), features, coords - 10)
    assert mx.calls == []
