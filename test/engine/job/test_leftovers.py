"""Processes of earlier jobs are named and left alone."""

import os
import subprocess
import sys
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


def named(pid: int, work_dir: Path | None, node_rank: int = 0) -> list[leftovers.Leftover]:
    """What is found of one process: other jobs of this machine may be found too."""
    return [found for found in leftovers.find(work_dir, node_rank) if found.pid == pid]


@pytest.mark.parametrize("flags", [("--work-dir", "w"), ("--work-dir=w",)])
def test_training_into_the_same_folder_is_named(flags: tuple[str, ...], tmp_path: Path) -> None:
    with process(tmp_path, *flags) as pid:
        (found,) = named(pid, tmp_path / "w")
        assert found.same_work_dir
        assert f"an earlier job still trains into this work directory: process {pid}" in str(found)
        assert named(pid, tmp_path / "other") == []
        assert named(pid, None) == []


def test_other_nodes_of_a_job_may_share_the_host(tmp_path: Path) -> None:
    with process(tmp_path, "--work-dir", "w", GROUP_RANK="1") as pid:
        assert named(pid, tmp_path / "w", node_rank=0) == []
        assert len(named(pid, tmp_path / "w", node_rank=1)) == 1
    with process(tmp_path, "--work-dir", "w", "--rdzv-conf=rank=1,join_timeout=6") as pid:
        assert named(pid, tmp_path / "w", node_rank=0) == []
        assert len(named(pid, tmp_path / "w", node_rank=1)) == 1


def test_orphan_of_torchrun_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, parent = leftovers._read, os.getpid()

    def become(words: str) -> None:
        """Give the process's parent another command line."""
        line = words.replace(" ", "\0").encode()
        monkeypatch.setattr(
            leftovers,
            "_read",
            lambda pid, name: line if (pid, name) == (parent, "cmdline") else read(pid, name),
        )

    with process(tmp_path, TORCHELASTIC_RUN_ID="anybev") as pid:
        for words in ("python -m anybev.engine.job.nodes", "python /bin/torchrun"):
            become(words)
            assert named(pid, tmp_path / "w") == []
        become("python tools/train.py")  # of a data loader's worker
        assert named(pid, tmp_path / "w") == []
        become("/lib/systemd/systemd --user")  # whoever adopts orphans need not be process 1
        (found,) = named(pid, tmp_path / "w")
        assert str(found).startswith(
            f"a training process lost its job and still runs: process {pid}"
        )


def test_process_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    with process(tmp_path, "--work-dir", "w") as pid:
        assert len(named(pid, tmp_path / "w")) == 1
    assert named(pid, tmp_path / "w") == []
