"""Settings and optimizer of a training on the simulated npu."""

import logging

import pytest
import torch
from torch import nn

from anybev.device import current_backend
from anybev.engine.numerics import apply_numerics
from anybev.engine.runner import Runner
from anybev.testing.tolerances import tolerances


def test_prepare_sets_compile_mode_and_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []
    monkeypatch.setattr(
        torch.npu, "set_compile_mode", lambda *, jit_compile: modes.append(jit_compile)
    )
    monkeypatch.setattr(torch.npu.config, "allow_internal_format", False)
    current_backend().prepare()
    assert modes == [False]
    assert torch.npu.config.allow_internal_format


def test_adamw_is_the_fused_one_and_steps_as_on_the_cpu() -> None:
    parameters = []
    for device in ("npu", "cpu"):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)).to(device)
        runner = Runner.__new__(Runner)
        runner.model, runner.logger = network, logging.getLogger("test")  # type: ignore[assignment]
        optimizer = {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1}
        if device == "cpu":
            optimizer["fused"] = False
        config = {"type": "OptimWrapper", "optimizer": optimizer, "clip_grad": {"max_norm": 0.5}}
        wrapper = runner.build_optim_wrapper(config)
        name = type(wrapper.optimizer).__name__
        assert name == ("NpuFusedAdamW" if device == "npu" else "AdamW")
        for step in range(4):
            x = torch.linspace(-1, 1, 40).view(8, 5).to(device) * (step + 1)
            wrapper.update_params(network(x).square().mean())
        parameters.append([p.detach().cpu() for p in network.parameters()])
    torch.testing.assert_close(*parameters, **tolerances(torch.float32))


def test_rows_are_normalised_in_float32_under_autocast() -> None:
    backend = current_backend()
    device = backend.device()
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).to(device)
    apply_numerics(network, backend)
    seen: list[torch.dtype] = []
    network[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with backend.autocast():
        out = network(torch.randn(9, 4, device=device))
    assert seen == [torch.float32]
    assert out.dtype == torch.float16
