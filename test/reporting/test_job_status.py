"""What a run folder says of its job: running, finished, failed, dead."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from anybev.cli import main
from anybev.reporting.job_status import is_alive, job_status
from anybev.reporting.status import append_status, read_status

GONE = 2**22 + 1  # above the largest process number


def add(path: Path, status: str, message: str = "training", **more: Any) -> None:
    append_status(
        path / "status.json", **({"kind": "train"} | more), status=status, message=message
    )


def alter_last(path: Path, **changes: Any) -> None:
    events = read_status(path / "status.json")[0]
    events[-1] |= changes
    (path / "status.json").write_text("".join(json.dumps(event) + "\n" for event in events))


def write_start(path: Path, name: str = "20260101_000000", ranks: int = 2) -> Path:
    folder = path / name
    (folder / "vis_data").mkdir(parents=True)
    (folder / f"{name}.log").write_text("first line\n\nlast line\n")
    row: dict[str, Any] = {"loss": 4.0, "time": 0.5, "data_time": 0.1, "memory": 300, "step": 8}
    for rank in range(ranks):
        row |= {f"time/rank{rank}": 0.5, f"data_time/rank{rank}": 0.1 * (rank + 1)}
        row |= {f"memory/rank{rank}": 300 + rank}
    lines = [json.dumps(row), json.dumps({"NDS": 0.2, "step": 1}), '{"loss": 3']
    (folder / "vis_data" / "scalars.json").write_text("\n".join(lines))
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, arguments)])


def test_a_running_job(tmp_path: Path) -> None:
    write_start(tmp_path)
    add(tmp_path, "STARTED", world_size=2)
    kpi = {"loss": 4.0, "samples_per_s": 8.0}
    place = {"epoch": 1, "step": 8, "steps": 40, "eta_s": 90.0}
    add(tmp_path, "RUNNING", "training, epoch 1", kpi=kpi, **place, world_size=2)
    found = job_status(tmp_path)
    assert (found.state, found.is_well, found.pid) == ("running", True, os.getpid())
    assert (found.epoch, found.step, found.steps, found.eta_s) == (1, 8, 40, 90.0)
    assert found.kpi == kpi
    assert [rank["data_time"] for rank in found.ranks] == [0.1, 0.2]
    assert [rank["memory"] for rank in found.ranks] == [300, 301]
    assert found.tail == ()
    result = command(tmp_path)
    assert result.exit_code == 0
    for text in ("running  training, epoch 1", "step 8 of 40", "0:01:30 left", "8.00 samples/s"):
        assert text in result.output


def test_a_finished_job_tells_scores_and_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "epoch_1.pth").touch()
    (tmp_path / "last_checkpoint").write_text("/moved/from/here/epoch_1.pth")
    add(tmp_path, "STARTED")
    add(tmp_path, "RUNNING", "evaluated", kpi={"NDS": 0.5, "AP/car": 0.4}, step=5, steps=5)
    add(tmp_path, "SUCCESS", "training: done")
    found = job_status(tmp_path)
    assert (found.state, found.eta_s) == ("finished", None)
    assert found.metrics == {"NDS": 0.5}
    assert found.checkpoint == tmp_path / "epoch_1.pth"
    result = command(tmp_path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["metrics"] == {"NDS": 0.5}


def test_a_checkpoint_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("epoch_9.pth")
    add(tmp_path, "STARTED")
    found = job_status(tmp_path)
    assert found.checkpoint is None
    assert found.notes == ("last_checkpoint names epoch_9.pth, which is not there",)


def test_a_failed_job_names_the_first_that_fell_and_the_end_of_its_log(tmp_path: Path) -> None:
    write_start(tmp_path)
    add(tmp_path, "STARTED", world_size=2)
    add(tmp_path, "FAILURE", "ValueError: [bold]no", rank=1, world_size=2)
    add(tmp_path, "FAILURE", "RuntimeError: connection closed by peer", rank=0, world_size=2)
    found = job_status(tmp_path)
    assert (found.state, found.is_well) == ("failed", False)
    assert found.detail == "rank 1: ValueError: [bold]no"
    assert list(found.tail) == ["first line", "last line"]
    result = command(tmp_path)
    assert result.exit_code == 1
    assert "ValueError: [bold]no" in result.output
    assert "last line" in result.output


def test_what_the_launcher_says_comes_first(tmp_path: Path) -> None:
    add(tmp_path, "STARTED", kind="launch")
    add(tmp_path, "STARTED")
    add(tmp_path, "FAILURE", "RuntimeError: connection closed by peer")
    add(tmp_path, "FAILURE", "rank 1 was killed by SIGKILL", kind="launch", rank=1)
    found = job_status(tmp_path)
    assert (found.kind, found.detail) == ("train", "rank 1: rank 1 was killed by SIGKILL")


def test_an_error_keeps_its_text_beside_the_launchers(tmp_path: Path) -> None:
    add(tmp_path, "STARTED", kind="launch")
    add(tmp_path, "STARTED")
    add(tmp_path, "FAILURE", "NonFiniteError: loss is NaN", rank=1)
    add(tmp_path, "FAILURE", "rank 1 (pid 7) ended with status 2", kind="launch", rank=1)
    assert job_status(tmp_path).detail == "rank 1: NonFiniteError: loss is NaN"


def test_a_launch_that_failed_early_is_not_the_job_before(tmp_path: Path) -> None:
    add(tmp_path, "STARTED")
    add(tmp_path, "SUCCESS", "training: done")
    write_start(tmp_path)
    add(tmp_path, "STARTED", "launching c.py", kind="launch")
    assert (job_status(tmp_path).state, job_status(tmp_path).kind) == ("running", "launch")
    add(tmp_path, "FAILURE", "error: no node joined", kind="launch")
    found = job_status(tmp_path)
    assert (found.state, found.detail) == ("failed", "rank 0: error: no node joined")
    assert (found.log, found.tail, found.ranks) == (None, (), ())


@pytest.mark.parametrize(
    ("restarts", "pid", "state"),
    [(1, os.getpid(), "running"), (0, os.getpid(), "failed"), (1, GONE, "failed")],
)
def test_a_failure_between_two_restarts_is_not_the_end(
    tmp_path: Path, restarts: int, pid: int, state: str
) -> None:
    add(tmp_path, "STARTED", kind="launch", pid=pid, kpi={"max_restarts": restarts})
    add(tmp_path, "STARTED", pid=GONE)
    add(tmp_path, "FAILURE", "RuntimeError: no", pid=GONE)
    assert job_status(tmp_path).state == state
    add(tmp_path, "FAILURE", "the job ended with status 1", kind="launch")
    assert job_status(tmp_path).state == "failed"


def test_a_process_that_is_gone_is_its_launchers_to_tell(tmp_path: Path) -> None:
    add(tmp_path, "STARTED", kind="launch")
    add(tmp_path, "STARTED", pid=GONE)
    found = job_status(tmp_path)
    assert (found.state, found.detail) == (
        "running",
        f"process {GONE} is gone, its launcher is there",
    )


def test_a_job_that_vanished_is_dead(tmp_path: Path) -> None:
    add(tmp_path, "STARTED", pid=GONE)
    add(tmp_path, "RUNNING", "training, epoch 3", pid=GONE)
    found = job_status(tmp_path)
    assert found.state == "died"
    assert found.detail == f"process {GONE} is gone and left no word; it was training, epoch 3"
    assert command(tmp_path).exit_code == 1


def test_a_restarted_job_is_judged_by_its_newest_start(tmp_path: Path) -> None:
    add(tmp_path, "STARTED")
    add(tmp_path, "RUNNING", kpi={"NDS": 0.1}, step=3, steps=9)
    add(tmp_path, "FAILURE", "RuntimeError: first")
    add(tmp_path, "STARTED")
    found = job_status(tmp_path)
    assert (found.state, found.starts, found.step) == ("running", 2, 0)
    assert found.metrics == {"NDS": 0.1}


def test_silence_of_another_host_is_death_after_a_while(tmp_path: Path) -> None:
    add(tmp_path, "STARTED", pid=GONE)
    before = datetime.now().astimezone() - timedelta(seconds=100)
    alter_last(tmp_path, host="elsewhere", time=before.isoformat())
    found = job_status(tmp_path)
    assert (found.state, found.host) == ("running", "elsewhere")
    assert found.detail.startswith("training (on elsewhere, 100 s ago)")
    assert job_status(tmp_path, silent_after_s=60).state == "died"
    assert command(tmp_path, "--silent-after", 60).exit_code == 1


def test_a_silent_job_on_this_host_may_hang(tmp_path: Path) -> None:
    add(tmp_path, "STARTED")
    alter_last(tmp_path, time=(datetime.now().astimezone() + timedelta(seconds=3)).isoformat())
    found = job_status(tmp_path, silent_after_s=-10)
    assert found.state == "running"
    assert "the process is there, but it may hang" in found.notes[0]


def test_half_a_line_at_the_end_is_noted(tmp_path: Path) -> None:
    add(tmp_path, "STARTED")
    with (tmp_path / "status.json").open("a") as stream:
        stream.write('{"status": "RUN')
    found = job_status(tmp_path)
    assert found.state == "running"
    assert found.notes == ("status.json, line 2 is no whole event and was left out",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "status: RUN must be an existing folder, got "),
        ("file", "status: RUN must be a folder, got the file "),
        ("empty", "status: RUN must hold a status.json with events, got "),
        ("torn", "status: RUN must hold a status.json with events, got "),
    ],
)
def test_no_such_run_is_status_2(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    for folder in ("empty", "torn"):
        (tmp_path / folder).mkdir()
    (tmp_path / "torn" / "status.json").write_text("{")
    result = command(tmp_path / name)
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: {message}")


def test_a_process_is_known_by_number_and_time() -> None:
    now = datetime.now().astimezone()
    assert is_alive(os.getpid(), now)
    assert not is_alive(os.getpid(), now - timedelta(days=365))  # a younger one has its number
    assert not is_alive(GONE, now)
    assert not is_alive(0, now)


_BEAT = """
import sys, time
from anybev.engine.job_events import JobEvents
with JobEvents(sys.argv[1], "train", "none", "training"):
    print("started", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_a_dead_job(tmp_path: Path) -> None:
    command_line = [sys.executable, "-c", _BEAT, str(tmp_path)]
    job = subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "started\n"
        assert job_status(tmp_path).state == "running"
    finally:
        job.kill()
        os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)
    zombie = job_status(tmp_path).state  # nobody has waited for it yet
    job.communicate(timeout=30)
    assert (zombie, job_status(tmp_path).state) == ("died", "died")


def test_watch_says_a_line_a_look_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "STARTED")
    add(tmp_path, "RUNNING", epoch=1, step=2, steps=9, eta_s=5.0, kpi={"loss": 1.5})
    monkeypatch.setattr("time.sleep", lambda _: add(tmp_path, "SUCCESS", "training: done"))
    result = command(tmp_path, "--watch")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "running, epoch 1, step 2 of 9, loss 1.5000, 0:00:05 left"
    assert lines[1].startswith("finished  training: done")
