"""BEVFusion's training step on the simulated npu against the same step on the CPU."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybev.device import current_backend
from anybev.engine.check.operators import all_on_reference, operators_on
from anybev.models.common.second_fpn import SECONDFPN
from anybev.testing import npu_step
from anybev.testing.simnpu import CudaTrapError
from anybev.testing.tolerances import tolerances

SNAPSHOT = Path(__file__).parent / "fallbacks.json"
NPU, CPU = torch.device("npu", 0), torch.device("cpu")
STEPS = 2


pytestmark = pytest.mark.usefixtures("one_thread")


def train(model: Any, batch: Any, device: torch.device) -> dict[str, Tensor]:
    """Losses and gradients of every step, and the state after the last one, on the CPU."""
    model, batch = model.to(device), batch.to(device)
    optimizer = npu_step.optimizer_of(model)
    found = {}
    for index in range(STEPS):
        torch.manual_seed(index)  # of every device: dropout
        losses = npu_step.step(model, batch, optimizer)
        found |= {f"{index} {name}": value.detach() for name, value in losses.items()}
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found |= {f"{index} gradient of {name}": value for name, value in grads.items()}
    assert device == CPU or npu_step.strangers(model, optimizer) == []
    assert all(value.device == device for value in found.values())
    return {name: value.cpu() for name, value in {**found, **model.state_dict()}.items()}


@pytest.mark.parametrize("name", npu_step.MODELS)
@pytest.mark.usefixtures("no_float64")
def test_steps_are_the_cpu_s(name: str) -> None:
    model, batch = npu_step.model_and_batch(name)
    start = copy.deepcopy(model.state_dict())
    with operators_on(all_on_reference()):
        expected = train(copy.deepcopy(model), batch, CPU)
        found = train(model, batch, NPU)
    assert found.keys() == expected.keys()
    moved = [key for key in start if "running" in key]
    assert len(moved) > 20
    assert all(not torch.equal(start[key], found[key]) for key in moved)
    for key, value in found.items():
        if "loss" in key and "gradient" not in key:
            # Sums over views: the copy on the CPU lies otherwise in memory.
            torch.testing.assert_close(value, expected[key], **tolerances(torch.float32))
        else:
            assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", npu_step.MODELS)
def test_float16_with_loss_scaling(name: str) -> None:
    model, batch = npu_step.model_and_batch(name)
    model, batch = model.to(NPU), batch.to(NPU)
    torch.manual_seed(0)
    exact = npu_step.total(model.loss(batch)).item()
    optimizer, scaler = npu_step.optimizer_of(model), torch.amp.GradScaler("npu", 2.0**4)
    torch.manual_seed(0)
    with current_backend().autocast():
        loss = npu_step.total(model.loss(batch))
    assert loss.item() == pytest.approx(exact, rel=0.05)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 35)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**4  # nothing overflowed, so the step was taken
    assert npu_step.strangers(model, optimizer) == []
    after = model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert sum(not torch.equal(after[key], before[key]) for key in after) > len(after) / 2


@pytest.mark.parametrize("name", npu_step.MODELS)
def test_what_a_step_leaves_to_the_cpu(name: str) -> None:
    known = json.loads(SNAPSHOT.read_text())
    if known["torch"] != torch.__version__.partition("+")[0]:
        pytest.skip(f"the list is of torch {known['torch']}")
    renew = f"renew: python -m anybev.testing.npu_step {SNAPSHOT}"
    assert npu_step.fallbacks(name) == known[name], renew


@pytest.mark.parametrize("name", npu_step.MODELS)
def test_detections_are_the_cpu_s(name: str) -> None:
    model, batch = npu_step.model_and_batch(name)
    model.eval()
    with operators_on(all_on_reference()), torch.no_grad():
        expected = model.predict(batch)
        found = model.to(NPU).predict(batch.to(NPU))
    assert len(found) == len(expected) == 2
    for mine, theirs in zip(found, expected, strict=True):
        for field in vars(theirs):
            value, wanted = getattr(mine, field), getattr(theirs, field)
            if isinstance(wanted, Tensor):
                assert value.device.type == "npu"
                torch.testing.assert_close(value.cpu(), wanted, **tolerances(torch.float32))


def test_cuda_in_a_model_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SECONDFPN.forward

    def careless(self: SECONDFPN, features: Any) -> Any:
        return forward(self, [feature.cuda() for feature in features])

    monkeypatch.setattr(SECONDFPN, "forward", careless)
    model, batch = npu_step.model_and_batch("lidar")
    with pytest.raises(CudaTrapError, match=r"Tensor\.cuda must not be used .*test_training\.py:"):
        model.to(NPU).loss(batch.to(NPU))


def test_a_tensor_left_on_the_cpu_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SECONDFPN.forward

    def careless(self: SECONDFPN, features: Any) -> Any:
        return forward(self, [feature + torch.zeros(feature.shape) for feature in features])

    monkeypatch.setattr(SECONDFPN, "forward", careless)
    model, batch = npu_step.model_and_batch("lidar")
    with pytest.raises(RuntimeError, match="same device, but found at least two devices"):
        model.to(NPU).loss(batch.to(NPU))


def test_a_parameter_left_on_the_cpu_is_named() -> None:
    model, _ = npu_step.model_and_batch("lidar")
    model.to(NPU)
    layer = model.pts_neck.deblocks[0][1]
    layer.running_mean = layer.running_mean.cpu()
    assert npu_step.strangers(model) == ["pts_neck.deblocks.0.1.running_mean"]
