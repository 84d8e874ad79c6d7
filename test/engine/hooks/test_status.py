"""When a heartbeat is written, and what a disk that is full does to it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from mmengine.logging import MessageHub

from anybev.engine.hooks.status import StatusHook
from anybev.reporting.status import read_status


@pytest.fixture
def runner(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    hub = MessageHub.get_instance(request.node.name)
    for name, value in {"loss": 3.0, "time": 0.5, "data_time": 0.1}.items():
        hub.update_scalar(f"train/{name}", value)
    hub.update_info("eta", 12.5)
    return SimpleNamespace(
        work_dir=str(tmp_path),
        message_hub=hub,
        epoch=0,
        iter=0,
        max_iters=40,
        log_processor=SimpleNamespace(window_size=5),
        train_dataloader=SimpleNamespace(batch_size=4),
        val_dataloader=[None] * 3,
        test_dataloader=[None] * 7,
        logger=Mock(),
    )


def events(runner: Any) -> list[dict[str, Any]]:
    path = Path(runner.work_dir) / "status.json"
    return read_status(path)[0] if path.exists() else []


def test_the_first_step_tells_at_once_and_the_next_ones_wait(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("anybev.engine.hooks.status.time.monotonic", lambda: now[0])
    hook = StatusHook(interval_s=10)
    for runner.iter in range(25):
        hook.after_train_iter(runner, batch_idx=runner.iter)
        now[0] += 1.0
    found = events(runner)
    assert [event["step"] for event in found] == [1, 11, 21]
    assert found[0]["eta_s"] == 12.5
    assert found[0]["steps"] == 40
    assert found[0]["kpi"] == {"loss": 3.0, "time": 0.5, "data_time": 0.1, "samples_per_s": 8.0}


def test_each_epoch_and_evaluation_tells_whatever_the_interval(runner: Any) -> None:
    hook = StatusHook(interval_s=1e6)
    hook.after_train_iter(runner, batch_idx=0)
    hook.after_train_epoch(runner)
    hook.after_val_iter(runner, batch_idx=1)
    hook.after_val_epoch(runner, {"NDS": 0.25})
    assert [event["message"] for event in events(runner)] == [
        "training, epoch 1",
        "trained epoch 1",
        "evaluated",
    ]
    assert events(runner)[-1]["kpi"] == {"NDS": 0.25}
    assert {event["kind"] for event in events(runner)} == {"train"}


def test_an_evaluation_of_its_own_counts_batches(runner: Any) -> None:
    hook = StatusHook(interval_s=0)
    hook.before_test(runner)
    hook.after_test_iter(runner, batch_idx=1)
    hook.after_test_epoch(runner, {"NDS": 0.5})
    first, last = events(runner)
    assert (first["kind"], first["step"], first["steps"]) == ("evaluate", 2, 7)
    assert (last["message"], last["kpi"]) == ("evaluated", {"NDS": 0.5})


def test_the_batch_of_an_evaluation_in_training_is_told(runner: Any) -> None:
    StatusHook(interval_s=0).after_val_iter(runner, batch_idx=1)
    assert events(runner)[0]["message"] == "evaluating, batch 2/3"


def test_other_processes_write_nothing(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybev.engine.hooks.status.is_main_process", lambda: False)
    StatusHook().after_train_iter(runner, batch_idx=0)
    assert events(runner) == []


def test_training_outlives_a_heartbeat_that_cannot_be_written(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anybev.engine.hooks.status.append_status", full)
    hook = StatusHook(interval_s=0)
    for index in range(3):
        hook.after_train_iter(runner, batch_idx=index)
    runner.logger.warning.assert_called_once()


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="StatusHook: interval_s must be 0 or more, got -1"):
        StatusHook(interval_s=-1)
