"""A loss that is not finite ends training, with all that is needed to find out why."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from anybev.device import Capability, get_backend
from anybev.engine import amp
from anybev.engine.amp import AmpOptimWrapper
from anybev.engine.hooks.finite import FiniteLossHook, NonFiniteLossError
from anybev.testing.one_step import StepRunner
from anybev.testing.tiny import tiny_batch


def weights(runner: StepRunner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in runner.detector.state_dict().items()}


def started(name: str, **options: object) -> tuple[StepRunner, FiniteLossHook]:
    runner, hook = StepRunner(name, **options), FiniteLossHook()
    hook.before_train(runner)
    return runner, hook


def test_healthy_steps_keep_every_bit() -> None:
    watched, hook = started("watched")
    plain = StepRunner("plain")
    for _ in range(3):
        watched.step(hook)
        plain.step(FiniteLossHook())
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(watched)[name])
    hook.after_train(watched)
    watched.detector.head.weight.data.fill_(float("nan"))
    watched.step(hook)  # watches no more


@pytest.mark.parametrize("clip", [{"max_norm": 35}, None])
@pytest.mark.parametrize(
    ("part", "value", "loss", "place"),
    [
        ("head", float("nan"), "nan", r"head \(Linear\), its weight"),
        ("head", 3e38, "inf", r"head \(Linear\), its output"),
        (None, float("nan"), "nan", r"stem \(Linear\), already its input"),
    ],
)
def test_a_bad_loss_stops_before_the_weights(
    part: str | None, value: float, loss: str, place: str, clip: dict | None
) -> None:
    runner, hook = started(f"bad_{part}_{value}_{clip}", clip_grad=clip)
    batch = tiny_batch((1, 1), points=8)
    if part:
        getattr(runner.detector, part).weight.data.fill_(value)
        runner.detector.stem.bias.data.fill_(1e6)  # the sigmoid of it is 1
    else:
        batch.points_lidar_m[1][3, 2] = value
    before = weights(runner)
    match = (
        r"loss must be finite, got another in epoch 2, step 4 \(iteration 12\).*\n"
        rf"  loss_box = {loss}.*; samples sample0, sample1; first bad module: {place}"
    )
    with pytest.raises(NonFiniteLossError, match=match):
        runner.step(hook, batch)
    for name, kept in before.items():
        assert torch.equal(kept.nan_to_num(), weights(runner)[name].nan_to_num())


def test_a_bad_loss_with_finite_gradients_stops_too() -> None:
    runner, hook = started("constant")
    runner.detector.added = torch.tensor(float("inf"))
    with pytest.raises(NonFiniteLossError, match="it is in the losses themselves"):
        runner.step(hook)


def test_bad_gradients_of_a_finite_loss_stop_too() -> None:
    runner, hook = started("gradients")
    runner.detector.added = (runner.detector.stem.weight * 0).sum().sqrt()
    match = r"gradients must be finite, got others in epoch 2.*\n  samples sample0"
    with pytest.raises(NonFiniteLossError, match=match):
        runner.step(hook)


def test_gradients_that_are_not_clipped_are_looked_at_every_interval() -> None:
    runner, hook = StepRunner("interval", clip_grad=None), FiniteLossHook(interval=5)
    hook.before_train(runner)
    runner.detector.added = torch.tensor(float("nan"))
    runner.step(hook)  # the twelfth iteration
    runner.iter = 14
    with pytest.raises(NonFiniteLossError, match=r"step 4 \(iteration 15\)"):
        runner.step(hook)


def test_accumulated_batches_are_all_searched() -> None:
    runner, hook = started("accumulated", accumulative_counts=2)
    bad = tiny_batch((1,), points=8)
    bad.points_lidar_m[0][0, 0] = float("nan")
    runner.optim_wrapper.initialize_count_status(runner.model, 0, 10)
    runner.step(hook, bad)
    with pytest.raises(NonFiniteLossError, match="samples sample0; first bad module: stem"):
        runner.step(hook)


@pytest.fixture
def scaling_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that scales losses as accelerators do."""
    cpu = get_backend("cpu")
    known = cpu.capabilities | {Capability.GRAD_SCALER}
    monkeypatch.setattr(amp, "current_backend", lambda: replace(cpu, capabilities=known))


@pytest.mark.usefixtures("scaling_cpu")
@pytest.mark.parametrize("loss_scale", ["dynamic", 1024.0])
def test_steps_that_loss_scaling_skips_end_training_only_in_a_row(
    loss_scale: str | float,
) -> None:
    options = {"wrapper": AmpOptimWrapper, "dtype": "float16", "loss_scale": loss_scale}
    runner, hook = StepRunner(f"skipped_{loss_scale}", **options), FiniteLossHook(3)
    hook.before_train(runner)
    before = weights(runner)
    scale = runner.optim_wrapper.loss_scaler.get_scale()
    for bad in (True, True, False, True, True):
        # The root of 0 has no finite slope: the loss stays as it was.
        slope = (runner.detector.stem.weight * 0).sum().sqrt()
        runner.detector.added = slope if bad else None
        runner.step(hook)
        assert (runner.optim_wrapper.skipped_in_row > 0) is bad
    left = runner.optim_wrapper.loss_scaler.get_scale()
    assert left == (scale / 16 if loss_scale == "dynamic" else scale)
    assert not torch.equal(before["head.weight"], weights(runner)["head.weight"])
    runner.detector.added = (runner.detector.stem.weight * 0).sum().sqrt()
    with pytest.raises(NonFiniteLossError, match="3 steps in a row were skipped by loss scaling"):
        runner.step(hook)


@pytest.mark.usefixtures("scaling_cpu")
@pytest.mark.parametrize("clip", [{"max_norm": 35}, None])
def test_a_bad_loss_stops_although_loss_scaling_skips_the_step(clip: dict | None) -> None:
    options = {"wrapper": AmpOptimWrapper, "dtype": "float16", "clip_grad": clip}
    runner, hook = started(f"scaled_{clip}", **options)
    runner.step(hook)
    before = weights(runner)
    runner.detector.added = torch.tensor(float("nan"))
    match = r"loss must be finite, .*; the step was skipped by loss scaling.*\n  loss_box = nan"
    with pytest.raises(NonFiniteLossError, match=match):
        runner.step(hook)
    for name, value in before.items():
        assert torch.equal(value, weights(runner)[name])


@pytest.mark.parametrize("name", ["max_skipped_steps", "interval"])
def test_wrong_arguments_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"FiniteLossHook: {name} must be at least 1, got 0"):
        FiniteLossHook(**{name: 0})
