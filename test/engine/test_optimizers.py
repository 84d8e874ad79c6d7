"""The device's own AdamW: when it is taken, and that its steps are torch's."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybev.engine import optimizers
from anybev.engine.runner import Runner
from anybev.testing.tolerances import tolerances


class FusedAdamW(torch.optim.Optimizer):
    """As torch_npu 2.7.1's in what it updates and counts.

    The first step settles which parameters are updated; a parameter's steps and the group's are
    counted side by side, from what the first parameter's state holds.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "amsgrad": amsgrad})
        self.is_states_combined = False
        self._groups: list[tuple[list[Tensor], dict[str, Any]]] = []

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Gradients stay and become zero."""
        if set_to_none:
            raise ValueError("set_to_none is not supported in fused optimizers")
        super().zero_grad(set_to_none=False)

    def _combine(self) -> None:
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p in parameters:
                if not self.state[p]:
                    self.state[p].update(step=0, exp_avg=torch.zeros_like(p))
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
            self._groups.append((parameters, {"step": self.state[parameters[0]]["step"]}))
        self.is_states_combined = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step of all groups."""
        if not self.is_states_combined:
            self._combine()
        for options, (parameters, group) in zip(self.param_groups, self._groups, strict=True):
            (beta1, beta2), lr = options["betas"], options["lr"]
            for p in parameters:
                self.state[p]["step"] += 1
            group["step"] += 1
            step = int(group["step"])
            for p in parameters:
                average, square = self.state[p]["exp_avg"], self.state[p]["exp_avg_sq"]
                assert p.grad is not None
                p.mul_(1 - lr * options["weight_decay"])
                average.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                denominator = (square.sqrt() / math.sqrt(1 - beta2**step)).add_(options["eps"])
                p.addcdiv_(average, denominator, value=-lr / (1 - beta1**step))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose device has a fused AdamW, and nothing else."""
    monkeypatch.setattr(
        "anybev.device.cpu.fused_optimizer", lambda name: FusedAdamW if name == "AdamW" else None
    )


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))


def built(network: nn.Module, **changes: Any) -> Any:
    """The optimizer wrapper that a run builds from a config."""
    runner = Runner.__new__(Runner)
    runner.model, runner.logger = network, logging.getLogger("test")  # type: ignore[assignment]
    optimizer = {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1, **changes.pop("optimizer", {})}
    return runner.build_optim_wrapper({"type": "OptimWrapper", "optimizer": optimizer, **changes})


def trained(network: nn.Module, wrapper: Any, steps: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 5, generator=generator)
        wrapper.update_params(network(x).square().mean())
    return [p.detach().clone() for p in network.parameters()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_grad": {"max_norm": 0.1}},
        {"optimizer": {"betas": (0.8, 0.95), "eps": 1e-6}},
        {"paramwise_cfg": {"norm_decay_mult": 0.0, "bias_lr_mult": 2.0}},
    ],
    ids=["plain", "clipped", "other betas", "groups"],
)
def test_steps_are_torchs(
    fused: None, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    networks = [model(), model()]
    wrapper = built(networks[0], **changes)
    assert type(wrapper.optimizer) is FusedAdamW
    monkeypatch.undo()
    plain = built(networks[1], **changes)
    assert type(plain.optimizer) is torch.optim.AdamW
    ours, theirs = (trained(n, w) for n, w in zip(networks, (wrapper, plain), strict=True))
    torch.testing.assert_close(ours, theirs, **tolerances(torch.float32))


@pytest.mark.parametrize("there", ["fused", "torch"])
def test_a_checkpoint_goes_on_with_the_other(
    fused: None, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    first, second, unbroken = model(), model(), model()
    writer = built(first, optimizer={} if there == "fused" else {"fused": False})
    trained(first, writer, 3)
    second.load_state_dict(first.state_dict())
    reader = built(second, optimizer={"fused": False} if there == "fused" else {})
    assert type(writer.optimizer) is not type(reader.optimizer)
    reader.load_state_dict(writer.state_dict())
    ours = trained(second, reader, 3)
    whole = built(unbroken, optimizer={"fused": False})
    trained(unbroken, whole, 3)
    theirs = trained(unbroken, whole, 3)
    torch.testing.assert_close(ours, theirs, **tolerances(torch.float32))


@pytest.mark.parametrize(
    "optimizer", [{"fused": False}, {"amsgrad": True}, {"type": "SGD", "momentum": 0.9}], ids=str
)
def test_what_the_fused_one_cannot_is_torchs(fused: None, optimizer: dict[str, Any]) -> None:
    wrapper = built(model(), optimizer=optimizer)
    assert isinstance(wrapper.optimizer, torch.optim.AdamW | torch.optim.SGD)


def test_parameters_of_another_dtype_are_torchs(fused: None) -> None:
    assert isinstance(built(model().double()).optimizer, torch.optim.AdamW)


def test_what_is_no_config_is_left_alone(fused: None) -> None:
    network = model()
    assert optimizers.fused_class(None, network) is None
    assert optimizers.fused_class({"optimizer": torch.optim.SGD}, network) is None
    assert optimizers.fused_class({"optimizer": {"type": torch.optim.AdamW}}, network) is None


def test_a_first_gradient_that_comes_late_is_an_error(fused: None) -> None:
    network = model()
    wrapper = built(network)
    network[2].requires_grad_(requires_grad=False)
    trained(network, wrapper, 2)
    network[2].requires_grad_(requires_grad=True)
    with pytest.raises(RuntimeError, match=r"FusedAdamW must all have a gradient .* got 2 whose"):
        trained(network, wrapper, 1)


def test_a_state_that_comes_late_is_an_error(fused: None) -> None:
    network = model()
    wrapper = built(network)
    state = wrapper.state_dict()
    trained(network, wrapper, 1)
    with pytest.raises(RuntimeError, match="state of FusedAdamW must be loaded before its first"):
        wrapper.load_state_dict(state)
