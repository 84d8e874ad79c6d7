"""The same call on the host and on another device: same outputs, same gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anybev.testing.tolerances import tolerances


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _cotangent(like: Tensor) -> Tensor:
    """Weights of both signs that no two neighbours share."""
    numbers = torch.arange(like.numel(), dtype=torch.float32)
    return torch.cos(1.7 * numbers).view(like.shape).to(like.dtype)


def _run(function: Callable[..., Any], tensors: Sequence[Tensor], device: str) -> list[Tensor]:
    """Outputs, then gradients of those inputs that require one."""
    leaves = [t.detach().to(device).requires_grad_(t.requires_grad) for t in tensors]
    outputs = _tensors(function(*leaves))
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if not wanted:
        return outputs
    carried = [out for out in outputs if out.requires_grad]
    cotangents = [_cotangent(out).to(device) for out in carried]
    return outputs + list(torch.autograd.grad(carried, wanted, cotangents))


def assert_same(
    function: Callable[..., Any], *tensors: Tensor, device: str = "npu", operator: str = ""
) -> None:
    """Compare what ``function`` gives for tensors on the host and for their copies on ``device``.

    Args:
        function: takes the tensors, returns one tensor or several.
        tensors: on the host; gradients are compared of those that require one.
        device: the other device.
        operator: whose tolerances count; those of each result's dtype otherwise.

    Raises:
        AssertionError: a shape, a dtype or a value differs, or a result is not on ``device``.
    """
    here, there = _run(function, tensors, "cpu"), _run(function, tensors, device)
    assert len(here) == len(there)
    for expected, got in zip(here, there, strict=True):
        assert got.device.type == torch.device(device).type
        inexact = expected.is_floating_point()
        limits = tolerances(expected.dtype, operator) if inexact else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(
            got.cpu(), expected, rtol=limits["rtol"], atol=limits["atol"], equal_nan=True
        )
