"""What a device wants computed in float32."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from anybev.device import Backend, Capability, get_backend
from anybev.engine.numerics import apply_numerics
from anybev.testing.tolerances import tolerances


@pytest.fixture
def backend() -> Backend:
    """The CPU with a wish for float32 norms."""
    cpu = get_backend("cpu")
    return replace(cpu, capabilities=cpu.capabilities | {Capability.NORM_ROWS_IN_FLOAT32})


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.BatchNorm1d(6)), nn.ReLU())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_rows_are_normalised_in_float32(backend: Backend, dtype: torch.dtype) -> None:
    rows = (torch.randn(500, 6) * 30 + 200).to(dtype)
    plain, changed = model(), model()
    apply_numerics(changed, backend)
    leaf = rows.clone().requires_grad_()
    out = changed(leaf)
    expected = plain(rows.float())
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)
    for ours, wanted in zip(changed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, wanted)
    out.float().square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype


def test_the_norm_itself_sees_float32(backend: Backend) -> None:
    changed = model()
    apply_numerics(changed, backend)
    seen: list[torch.dtype] = []
    norm = changed[0][0]
    forward = norm.forward
    norm.forward = lambda x: (seen.append(x.dtype), forward(x))[1]
    changed(torch.randn(5, 6).half())
    changed(torch.randn(5, 6))
    assert seen == [torch.float32, torch.float32]


def test_rows_with_a_length_stay_as_they_are(backend: Backend) -> None:
    changed = model()
    apply_numerics(changed, backend)
    x = torch.randn(4, 6, 3).bfloat16()
    assert torch.equal(changed(x), model()(x))


def test_float32_keys_and_copies_stay(backend: Backend) -> None:
    plain, changed = model(), model()
    apply_numerics(changed, backend)
    apply_numerics(changed, backend)
    assert list(changed.state_dict()) == list(plain.state_dict())
    rows = torch.randn(9, 6)
    expected = plain(rows)
    torch.testing.assert_close(copy.deepcopy(changed)(rows), expected, **tolerances(rows.dtype))
    assert len(changed[0][0]._forward_hooks) == 1


def test_a_device_without_the_wish_changes_nothing() -> None:
    changed = model()
    apply_numerics(changed, get_backend("cpu"))
    assert not changed[0][0]._forward_pre_hooks
