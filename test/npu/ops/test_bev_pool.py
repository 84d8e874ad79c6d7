"""bev_pool on the simulated npu: through mx_driving's contract, as on the CPU."""

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops.bev_pool import bev_pool
from anybev.testing import simnpu
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same

BATCH, GRID = 2, (5, 4, 3)


def points(draw: Generator, count: int, channels: int) -> tuple[Tensor, Tensor]:
    columns = [torch.randint(0, n, (count,), generator=draw) for n in (BATCH, *GRID)]
    return torch.randn(count, channels, generator=draw), torch.stack(columns, 1).int()


def pool(features: Tensor, coords: Tensor) -> Tensor:
    return bev_pool(features, coords, BATCH, GRID)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("count", "channels"), [(1, 8), (70, 24), (9, 360)])
def test_equals_the_cpu(
    mx: Binding, draw: Generator, dtype: torch.dtype, count: int, channels: int
) -> None:
    features, coords = points(draw, count, channels)
    assert_same(pool, features.to(dtype).requires_grad_(), coords)
    assert mx.calls == ["npu_bev_pool_v3", "npu_bev_pool_v3_backward"]


def test_memory_format_and_strides(mx: Binding, draw: Generator) -> None:
    features, coords = points(draw, 40, 16)
    assert_same(pool, features[::2, :8], coords[::2])
    out = pool(features.npu(), coords.npu())
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert not out.requires_grad


@pytest.mark.parametrize(
    ("channels", "reason"),
    [(12, "channels must divide by 8, got 12"), (368, "channels must be at most 360, got 368")],
)
def test_channels_that_the_kernel_does_not_take(
    mx: Binding, draw: Generator, channels: int, reason: str
) -> None:
    features, coords = points(draw, 20, channels)
    with pytest.warns(KernelFallbackWarning, match=f"^bev_pool: .* {reason}$") as told:
        assert_same(pool, features.requires_grad_(), coords)
    assert len(told) == 1  # forward and backward share the limit
    assert_same(pool, features, coords)
    assert mx.calls == []


def test_361_channels_divide_by_nothing(mx: Binding, draw: Generator) -> None:
    with pytest.warns(KernelFallbackWarning, match="channels must divide by 8, got 361"):
        assert_same(pool, *points(draw, 3, 361))


def test_float64_stays_float64(mx: Binding, draw: Generator) -> None:
    features, coords = points(draw, 20, 8)
    with simnpu.allow_float64(), pytest.warns(KernelFallbackWarning, match="not be float64"):
        assert_same(pool, features.double(), coords)


def test_no_point_is_no_call(mx: Binding, draw: Generator) -> None:
    assert_same(pool, *points(draw, 0, 8))
    assert mx.calls == []


@pytest.mark.parametrize("column", range(4))
def test_cells_outside_are_refused_before_the_kernel(
    mx: Binding, draw: Generator, column: int
) -> None:
    features, coords = points(draw, 20, 8)
    coords[7, column] = (BATCH, *GRID)[column]
    with pytest.raises(ValueError, match=r"bev_pool: coords must be in \[0, \[2, 5, 4, 3\]\)"):
        pool(features.npu(), coords.npu())
    assert mx.calls == []


def test_the_second_device(mx: Binding, draw: Generator) -> None:
    features, coords = points(draw, 20, 8)
    assert_same(pool, features.requires_grad_(), coords, device="npu:1")


def test_autocast_changes_nothing(mx: Binding, draw: Generator) -> None:
    features, coords = points(draw, 20, 8)
    with torch.autocast("npu", dtype=torch.float16):
        out = pool(features.npu(), coords.npu())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.cpu(), pool(features, coords))
