"""Signals to a job of two ranks: SIGKILL, SIGTERM, Ctrl-C."""

import re
import signal
import time
from pathlib import Path

import pytest

from anybev.engine import checkpoint
from anybev.testing.processes import Job
from anybev.testing.tiny_training import HALVES, arguments, assert_same_training, slow_tool


def resumed(root: Path, work_dir: Path) -> str:
    """Resume the run to its end and return what was printed."""
    command = arguments(root, work_dir, "--resume", more=HALVES)
    with Job(command, work_dir / "resumed.txt", ranks=2) as job:
        assert job.finish() == 0, job.output()[-3000:]
        return job.output()


def test_a_killed_rank_ends_the_job_and_is_named_and_the_run_goes_on(
    synthetic_root: Path, unbroken: Path, tmp_path: Path
) -> None:
    command = arguments(synthetic_root, tmp_path, more=HALVES)
    with Job(command, tmp_path / "out.txt", ranks=2, tool=slow_tool(tmp_path)) as job:
        job.wait_for_step(3)
        victim = job.rank_pid(1)
        start = time.monotonic()
        job.send(signal.SIGKILL, victim)
        assert job.finish(30) != 0
        assert time.monotonic() - start < 30
        last = job.output()[-3000:]
    assert re.search(rf"rank\s*: 1 .*\n\s*exitcode\s*: -9 \(pid: {victim}\)", last)
    assert f"Signal 9 (SIGKILL) received by PID {victim}" in last
    assert "rank 0: every rank must take part in a step" in job.output()
    assert "rank 1 did not answer within 8 s" in job.output()
    assert job.output().count("Traceback") == 1  # torchrun's own
    assert "resumed" in resumed(synthetic_root, tmp_path)
    assert_same_training(unbroken / "iter_10.pth", tmp_path / "iter_10.pth")


@pytest.mark.parametrize(
    ("number", "status", "to"),
    [(signal.SIGTERM, 143, "launcher"), (signal.SIGINT, 130, "rank")],
)
def test_a_stopping_signal_saves_the_step_on_all_ranks_and_the_run_goes_on(
    number: signal.Signals,
    status: int,
    to: str,
    synthetic_root: Path,
    unbroken: Path,
    tmp_path: Path,
) -> None:
    more = HALVES | {"default_hooks__checkpoint__interval": "100"}
    command = arguments(synthetic_root, tmp_path, more=more)
    with Job(command, tmp_path / "out.txt", ranks=2, tool=slow_tool(tmp_path)) as job:
        job.wait_for_step(3)
        job.send(number, job.launcher_pid if to == "launcher" else job.rank_pid(1))
        assert job.finish(60) != 0
        out = job.output()
    assert f"{number.name}: this step is finished and saved" in out
    saved = Path((tmp_path / "last_checkpoint").read_text())
    meta = checkpoint.read(saved)["meta"]
    step, epoch = meta["iter"], meta["epoch"]
    assert 3 <= step < 10
    assert epoch in (step // 5, (step - 1) // 5)  # both at the end of an epoch of five
    assert f"{number.name}: step {step} is saved in {saved}, --resume goes on from there" in out
    if to == "rank":
        assert f"exitcode  : {status}" in out
    output = resumed(synthetic_root, tmp_path)
    assert f"resumed {saved}: epoch {epoch + 1}, iteration {step}" in output
    assert_same_training(unbroken / "iter_10.pth", tmp_path / "iter_10.pth")
