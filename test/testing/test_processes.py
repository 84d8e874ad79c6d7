"""What tests start ends, with them or before."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anybev.testing import processes
from anybev.testing.processes import MARK, Job, exit_status_of, marked, run_tool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_that_appears_while_the_job_is_killed_is_killed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "tool.py"
    tool.write_text("import time; time.sleep(60)")
    late: list[subprocess.Popen[bytes]] = []
    alive = Job.alive

    def look(job: Job) -> list[int]:
        found = alive(job)
        if not late:
            late.append(subprocess.Popen(SLEEP, env=os.environ | {MARK: job.mark}))
        return found

    with Job([], tmp_path / "log.txt", tool=tool) as job:
        monkeypatch.setattr(Job, "alive", look)
    assert late[0].wait(10) == -signal.SIGKILL
    assert job.process is not None
    assert job.process.returncode == -signal.SIGKILL
    assert marked(job.mark) == {}


def test_a_forked_process_that_does_not_end_is_killed() -> None:
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"no end after 0\.2 s"):
        exit_status_of(lambda: time.sleep(60), seconds=0.2)
    assert time.monotonic() - start < 30


def test_a_tool_that_does_not_end_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TOOLS", tmp_path)
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        run_tool("sleeps.py", seconds=0.2)
    (tmp_path / "fails.py").write_text("import sys; sys.exit(' '.join(sys.argv[1:]))")
    with pytest.raises(AssertionError, match="a 1"):
        run_tool("fails.py", "a", 1)
    assert run_tool("fails.py", check=False).returncode == 1
