"""The time that is left, and which steps a speed is made of."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub

from anybev.engine.hooks.throughput import ThroughputHook, precision, warmup_steps

# Evaluations after the epochs 2, 4, 6, ... and the last one.
LOOP = SimpleNamespace(val_begin=1, val_interval=2)


def make_runner(name: str, first: int = 0, epochs: int = 5, steps: int = 20) -> Any:
    return SimpleNamespace(
        message_hub=MessageHub.get_instance(name),
        iter=first,
        epoch=first // steps,
        max_epochs=epochs,
        max_iters=epochs * steps,
        train_loop=LOOP,
        val_loop=object(),
        train_dataloader=SimpleNamespace(batch_size=4),
        optim_wrapper=SimpleNamespace(),
        cfg=SimpleNamespace(filename="configs/tiny.py"),
        seed=3,
    )


def step(hook: ThroughputHook, runner: Any, seconds: float) -> float:
    runner.message_hub.update_scalar("train/time", seconds)
    runner.message_hub.update_scalar("train/data_time", seconds / 4)
    runner.message_hub.update_scalar("train/loss", 10 - runner.iter / 10)
    hook.after_train_iter(runner, batch_idx=0)
    runner.iter += 1
    return float(runner.message_hub.get_info("eta"))


@pytest.mark.parametrize(
    ("steps", "left_out"), [(0, 0), (1, 0), (2, 1), (9, 1), (10, 2), (49, 9), (50, 10), (900, 10)]
)
def test_warmup_is_a_fifth_of_the_steps_between_one_and_ten(steps: int, left_out: int) -> None:
    assert warmup_steps(steps) == left_out


def test_eta_forgets_the_slow_first_step_as_soon_as_there_is_another() -> None:
    hook, runner = ThroughputHook(), make_runner("first_step")
    hook.before_train(runner)
    assert step(hook, runner, 30.0) == pytest.approx(30.0 * 99)
    assert step(hook, runner, 0.5) == pytest.approx(0.5 * 98)
    assert step(hook, runner, 0.7) == pytest.approx(0.6 * 97)


def test_eta_after_a_resume_counts_the_steps_that_are_left() -> None:
    hook, runner = ThroughputHook(), make_runner("resumed", first=90)
    hook.before_train(runner)
    step(hook, runner, 9.0)
    assert step(hook, runner, 0.5) == pytest.approx(0.5 * 8)


def test_eta_follows_the_newest_steps() -> None:
    hook, runner = ThroughputHook(), make_runner("newest", steps=200)
    for _ in range(250):
        step(hook, runner, 1.0)
    for _ in range(199):
        step(hook, runner, 3.0)
    left = 1000 - 450
    assert step(hook, runner, 3.0) == pytest.approx(3.0 * left)


def test_eta_counts_the_evaluations_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    hook, runner = ThroughputHook(), make_runner("evaluations", first=40)
    now = [100.0]
    monkeypatch.setattr("anybev.engine.hooks.throughput.time.monotonic", lambda: now[0])
    hook.before_val(runner)
    now[0] += 60.0
    hook.after_val(runner)
    # Epoch 3 is at hand: evaluations follow epochs 4 and 5, the last one.
    assert step(hook, runner, 1.0) == pytest.approx(59 + 2 * 60)
    runner.val_loop = None
    assert step(hook, runner, 1.0) == pytest.approx(58)


def test_measures_of_a_training_are_medians_without_the_first_steps() -> None:
    hook, runner = ThroughputHook(), make_runner("measures")
    hook.before_train(runner)
    for seconds in (50.0, 40.0, *[0.5] * 5, 0.4, 0.8, 9.0):
        step(hook, runner, seconds)
    hook.after_train(runner)
    found = runner.train_measures
    assert (found["steps"], found["warmup_steps"], found["first_step"]) == (10, 2, 1)
    assert found["step_time_s"] == 0.5
    assert found["data_time_s"] == 0.125
    assert found["data_time_share"] == pytest.approx(0.25)
    assert found["samples_per_s"] == pytest.approx(8.0)
    assert found["loss"] == pytest.approx((9.2 + 9.1) / 2)
    assert found["loss_steps"] == 2
    assert (found["world_size"], found["global_batch"]) == (1, 4)
    assert found["by_rank"]["step_time_s"] == [0.5]
    assert found["precision"] == "fp32"


def test_a_training_without_steps_has_no_measures() -> None:
    hook, runner = ThroughputHook(), make_runner("no_steps")
    hook.before_train(runner)
    hook.after_train(runner)
    assert not hasattr(runner, "train_measures")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(None, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")],
)
def test_precision_is_what_autocast_computes_in(dtype: torch.dtype | None, name: str) -> None:
    wrapper = SimpleNamespace() if dtype is None else SimpleNamespace(dtype=dtype)
    assert precision(wrapper) == name
