"""Processes of earlier jobs are named and left alone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anybev.engine.job import leftovers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@contextmanager
def process(folder: Path, *flags: str, **variables: str) -> Iterator[int]:
    """Something that looks like a training for as long as the block runs."""
    script = folder / "train.py"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    started = subprocess.Popen(
        [sys.executable, str(script), "config.py", *flags],
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
    )
    try:
        assert started.stdout
        assert started.stdout.readline() == b"up\n"
        yield started.pid
        assert started.poll() is None, "it was touched"
    finally:
        started.kill()
        started.wait()
        if started.stdout:
            started.stdout.close()


@pytest.mark.parametrize("flags", [("--work-dir", "w"), ("--work-dir=w",)])
def test_training_into_the_same_folder_is_named(flags: tuple[str, ...], tmp_path: Path) -> None:
    with process(tmp_path, *flags) as pid:
        (found,) = leftovers.find(tmp_path / "w")
        assert (found.pid, found.same_work_dir) == (pid, True)
        assert f"an earlier job still trains into this work directory: process {pid}" in str(found)
        assert leftovers.find(tmp_path / "other") == []
        assert leftovers.find(None) == []


def test_other_nodes_of_a_job_may_share_the_host(tmp_path: Path) -> None:
    with process(tmp_path, "--work-dir", "w", GROUP_RANK="1"):
        assert leftovers.find(tmp_path / "w", node_rank=0) == []
        assert len(leftovers.find(tmp_path / "w", node_rank=1)) == 1
    with process(tmp_path, "--work-dir", "w", "--rdzv-conf=rank=1,join_timeout=6"):
        assert leftovers.find(tmp_path / "w", node_rank=0) == []


def test_orphan_of_torchrun_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(tmp_path, TORCHELASTIC_RUN_ID="anybev") as pid:
        assert leftovers.find(tmp_path / "w") == []
        monkeypatch.setattr(leftovers, "_parent", lambda _: 1)
        (found,) = leftovers.find(tmp_path / "w")
        assert str(found).startswith(
            f"a training process lost its job and still runs: process {pid}"
        )


def test_process_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    with process(tmp_path, "--work-dir", "w"):
        pass
    for _ in range(50):
        if not leftovers.find(tmp_path / "w"):
            return
        time.sleep(0.1)
    pytest.fail("a dead process is named")
