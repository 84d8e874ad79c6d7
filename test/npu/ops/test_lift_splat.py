"""lift_splat on the simulated npu: through mx_driving's contract, as on the CPU."""

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops.lift_splat import lift_splat
from anybev.testing import simnpu
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same

DEPTHS = 4


def scene(draw: Generator, channels: int, batch_size: int = 2) -> list[Tensor]:
    logits = torch.randn(batch_size, 2, DEPTHS + channels, 2, 3, generator=draw)
    rays = torch.rand(batch_size, 2, 2, 3, 3, generator=draw) - 0.5
    origins = torch.rand(batch_size, 2, 3, generator=draw)
    return [logits, rays, origins, torch.arange(1.0, DEPTHS + 1)]


def splat(*tensors: Tensor) -> Tensor:
    return lift_splat(*tensors, (-1.0, -1.5, -1.0), (0.5, 0.5, 1.0), (5, 6, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [8, 80])
def test_equals_the_cpu(mx: Binding, draw: Generator, dtype: torch.dtype, channels: int) -> None:
    logits, *geometry = scene(draw, channels)
    logits = logits.to(dtype).to(memory_format=torch.preserve_format).requires_grad_()
    assert_same(splat, logits, *geometry)
    assert mx.calls == ["npu_bev_pool_v3", "npu_bev_pool_v3_backward"]


def test_odd_points_are_dropped_as_on_the_cpu(mx: Binding, draw: Generator) -> None:
    logits, rays, origins, depths = scene(draw, 8)
    rays[0, 0, 0, 0, 1], rays[0, 1, 1, 2, 2] = torch.nan, torch.inf
    origins[1, 0] = -1.4  # points less than one cell below the low corner fall into cell 0
    rays[1, 0] = 0.0
    assert_same(splat, logits.requires_grad_(), rays, origins, depths)
    assert mx.calls[0] == "npu_bev_pool_v3"


def test_strides_and_memory_format(mx: Binding, draw: Generator) -> None:
    logits, *geometry = scene(draw, 8)
    turned = logits.transpose(3, 4).contiguous().transpose(3, 4)
    assert_same(splat, turned.requires_grad_(), *geometry)
    out = splat(*(t.npu() for t in (logits, *geometry)))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [12, 361, 368])
def test_channels_that_the_kernel_does_not_take(
    mx: Binding, draw: Generator, channels: int
) -> None:
    logits, *geometry = scene(draw, channels, 1)
    with pytest.warns(KernelFallbackWarning, match=f"^lift_splat: .* got {channels}$") as told:
        assert_same(splat, logits.requires_grad_(), *geometry)
    assert len(told) == 1
    assert mx.calls == []


def test_float64_stays_float64(mx: Binding, draw: Generator) -> None:
    logits, *geometry = scene(draw, 8)
    with simnpu.allow_float64(), pytest.warns(KernelFallbackWarning, match="not be float64"):
        assert_same(splat, logits.double(), *geometry)


def test_nothing_in_the_grid_is_no_call(mx: Binding, draw: Generator) -> None:
    logits, rays, origins, depths = scene(draw, 8)
    assert_same(splat, logits.requires_grad_(), rays, origins + 100, depths)
    assert mx.calls == []
