"""Synchronised batch norm of mmcv._ext against torch's batch norm over the joined batch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from anybev.patches import Outcome
from anybev.patches.ext.sync_bn import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)
from anybev.testing.tolerances import tolerances

EPS, MOMENTUM = 1e-5, 0.1


def channels(value: float) -> Tensor:
    return torch.full((3,), value, dtype=torch.float64)


def test_two_shares_of_a_batch_are_one_batch() -> None:
    """What mmcv's layer does in two processes, with the sums between them written out."""
    generator = torch.Generator().manual_seed(2)
    batch, grad = (
        torch.randn((4, 3, 10), generator=generator, dtype=torch.float64) for _ in range(2)
    )
    weight, bias = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    leaves = [t.clone().requires_grad_() for t in (batch, weight, bias)]
    statistics = channels(0), channels(1)
    expected = F.batch_norm(leaves[0], *statistics, *leaves[1:], True, MOMENTUM, EPS)
    wanted = torch.autograd.grad(expected, leaves, grad)

    shares = batch.split(2)
    mean, var = channels(0), channels(0)
    for share in shares:
        own = channels(torch.nan)
        sync_bn_forward_mean(share, own)
        mean += own / 2
    for share in shares:
        own = channels(torch.nan)
        sync_bn_forward_var(share, mean, own)
        var += own / 2
    outputs, norms, std = [], [], channels(torch.nan)
    for share in shares:
        running = channels(0), channels(1)
        norm, output = (torch.full_like(share, torch.nan) for _ in range(2))
        sync_bn_forward_output(
            share, mean, var, weight, bias, *running, norm, std, output,
            eps=EPS, momentum=torch.tensor([MOMENTUM], dtype=torch.float64), group_size=2,
        )  # fmt: skip
        outputs.append(output)
        norms.append(norm)
        for got, want in zip(running, statistics, strict=True):
            torch.testing.assert_close(got, want, **tolerances(torch.float64))
    torch.testing.assert_close(torch.cat(outputs), expected.detach(), **tolerances(torch.float64))

    grad_weight, grad_bias = channels(0), channels(0)
    for share, norm in zip(grad.split(2), norms, strict=True):
        own = channels(torch.nan), channels(torch.nan)
        sync_bn_backward_param(share, norm, *own)
        grad_weight += own[0]
        grad_bias += own[1]
    for got, want in zip((grad_weight, grad_bias), wanted[1:], strict=True):
        torch.testing.assert_close(got, want, **tolerances(torch.float64))
    found = []
    for share, norm in zip(grad.split(2), norms, strict=True):
        found.append(torch.full_like(share, torch.nan))
        sync_bn_backward_data(share, weight, grad_weight / 2, grad_bias / 2, norm, std, found[-1])
    torch.testing.assert_close(torch.cat(found), wanted[0], **tolerances(torch.float64))


def test_without_weight_and_running_statistics() -> None:
    batch = torch.randn(2, 3, 5, dtype=torch.float64)
    output = torch.empty_like(batch)
    mean, var = batch.mean((0, 2)), batch.var((0, 2), unbiased=False)
    sync_bn_forward_output(
        batch, mean, var, None, None, None, None, None, None, output,
        eps=EPS, momentum=MOMENTUM, group_size=1,
    )  # fmt: skip
    expected = F.batch_norm(batch, None, None, training=True, eps=EPS)
    torch.testing.assert_close(output, expected, **tolerances(torch.float64))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("mode", ["default", "N"])
def test_mmcv_s_layer_trains_on_the_cpu(host: list[Outcome], one_process: None, mode: str) -> None:
    from mmcv.ops import SyncBatchNorm

    layer, plain = SyncBatchNorm(3, stats_mode=mode), torch.nn.BatchNorm2d(3)
    plain.load_state_dict(layer.state_dict())
    images = [torch.randn(2, 3, 4, 5).requires_grad_()]
    images.append(images[0].detach().clone().requires_grad_())
    outputs = []
    for module, batch in zip((layer, plain), images, strict=True):
        outputs.append(module(batch))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs, **tolerances(torch.float32))
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], **tolerances(torch.float32))
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, **tolerances(torch.float32))
    torch.testing.assert_close(*(i.grad for i in images), **tolerances(torch.float32))
