"""How a job begins and ends in its status.json, whoever ends it."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from anybev.engine.job_events import JobEvents, one_line, place
from anybev.engine.stopping import Stopped
from anybev.reporting.status import read_status
from anybev.testing.processes import exit_status_of


def events(path: Path) -> list[tuple[str, int, str]]:
    found = read_status(path / "status.json")[0] if (path / "status.json").exists() else []
    return [(event["status"], event["rank"], event["message"]) for event in found]


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_success_carries_the_numbers(tmp_path: Path) -> None:
    with JobEvents(tmp_path, "train", "none", "training a.py") as job:
        job.kpi = {"NDS": 0.5}
    assert events(tmp_path) == [
        ("STARTED", 0, "training a.py"),
        ("SUCCESS", 0, "training a.py: done"),
    ]
    assert read_status(tmp_path / "status.json")[0][-1]["kpi"] == {"NDS": 0.5}


def test_only_the_first_process_tells_of_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch, 1)
    with JobEvents(tmp_path, "train", "pytorch", "training a.py"):
        pass
    assert events(tmp_path) == []


def test_the_process_that_fails_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch, 1)
    with (
        pytest.raises(ValueError, match="no"),
        JobEvents(tmp_path, "train", "pytorch", "training a.py"),
    ):
        raise ValueError("no\nsuch key")
    assert events(tmp_path) == [("FAILURE", 1, "ValueError: no such key")]
    assert read_status(tmp_path / "status.json")[0][0]["world_size"] == 2


@pytest.mark.parametrize(("rank", "told"), [(0, 1), (1, 0)])
def test_processes_that_a_signal_stopped_together_tell_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, told: int
) -> None:
    as_rank(monkeypatch, rank)
    job = JobEvents(tmp_path, "train", "pytorch", "training")
    job.__exit__(Stopped, Stopped(15, "step 7 is saved"), None)
    assert len(events(tmp_path)) == told


def test_a_signal_in_an_evaluation_is_told(tmp_path: Path) -> None:
    def act() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(Stopped), JobEvents(tmp_path, "train", "none", "training"):
            os.kill(os.getpid(), signal.SIGTERM)

    assert exit_status_of(act) == 0
    status, _, text = events(tmp_path)[-1]
    assert status == "FAILURE"
    assert text.startswith("SIGTERM: no step was under way, --resume goes on")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyboardInterrupt(), "interrupted; training goes on with --resume"),
        (Stopped(15, "step 7 is saved"), "SIGTERM: step 7 is saved"),
        (SystemExit(3), "stopped with exit status 3"),
        (RuntimeError(), "RuntimeError"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_an_end_in_one_line(error: BaseException, text: str) -> None:
    assert one_line(error) == text


def test_an_exit_without_an_error_is_success(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), JobEvents(tmp_path, "evaluate", "none", "evaluating"):
        raise SystemExit(0)
    assert events(tmp_path)[-1][0] == "SUCCESS"


def test_the_error_stays_when_it_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anybev.engine.job_events.append_status", full)
    job = JobEvents(tmp_path, "train", "none", "training")
    job.__exit__(ValueError, ValueError("first"), None)
    assert "could not say so there: [Errno 28]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "variables", "found"),
    [
        ("none", {"RANK": "3", "WORLD_SIZE": "4"}, (0, 1)),
        ("pytorch", {"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ("pytorch", {}, (0, 1)),
        ("slurm", {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ("mpi", {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_place_of_a_process(
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
    variables: dict[str, str],
    found: tuple[int, int],
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place(launcher) == found
