"""Jobs of two ranks where something else than a signal fails: each ends, and says what."""

import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from anybev.engine import checkpoint
from anybev.testing.processes import Job
from anybev.testing.tiny_training import HALVES, arguments, assert_same_training, slow_tool

pytestmark = pytest.mark.slow
WORKERS = {"train_dataloader__num_workers": "1"}


def test_a_rank_that_hangs_is_named_when_the_others_time_out(
    synthetic_root: Path, tmp_path: Path
) -> None:
    more = HALVES | {"env_cfg__dist_cfg__timeout": "60"}
    command = arguments(synthetic_root, tmp_path, more=more)
    env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3"}
    tool = slow_tool(tmp_path)
    with Job(command, tmp_path / "out.txt", ranks=2, env=env, tool=tool) as job:
        job.wait_for_step(3)
        job.send(signal.SIGSTOP, job.rank_pid(1))
        assert job.finish(180) != 0
        assert re.search(
            r"rank 0: every rank must take part in a step, got '.*(imed out|timeout).*': "
            r"rank 1 did not answer within 8 s",
            job.output(),
        )


def test_a_killed_worker_of_a_data_loader_ends_the_job_and_is_named(
    synthetic_root: Path, tmp_path: Path
) -> None:
    command = arguments(synthetic_root, tmp_path, more=HALVES | WORKERS)
    with Job(command, tmp_path / "out.txt", ranks=2, tool=slow_tool(tmp_path)) as job:
        job.wait_for_step(2)
        job.wait_until(lambda: bool(job.workers(1)), 60)
        (worker,) = job.workers(1)
        job.send(signal.SIGKILL, worker)
        assert job.finish(60) != 0
        assert f"(pid {worker}) must live as long as training does" in job.output()


def test_a_launcher_that_is_killed_leaves_no_orphan_and_a_checkpoint(
    synthetic_root: Path, tmp_path: Path
) -> None:
    more = HALVES | {"default_hooks__checkpoint__interval": "100"}
    command = arguments(synthetic_root, tmp_path, more=more)
    with Job(command, tmp_path / "out.txt", ranks=2, tool=slow_tool(tmp_path)) as job:
        job.wait_for_step(3)
        job.send(signal.SIGKILL)
        assert job.finish(60) == -signal.SIGKILL
        assert re.search(r"SIGTERM: step \d+ is saved in .*--resume goes on", job.output())
    assert (tmp_path / "last_checkpoint").is_file()


def test_a_damaged_newest_checkpoint_is_passed_over_by_all_ranks(
    synthetic_root: Path, unbroken: Path, tmp_path: Path
) -> None:
    for name in ("iter_6.pth", "iter_8.pth"):
        shutil.copy(unbroken / name, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_8.pth"))
    newest = bytearray((tmp_path / "iter_8.pth").read_bytes())
    newest[len(newest) // 2] ^= 1
    (tmp_path / "iter_8.pth").write_bytes(bytes(newest))
    command = arguments(synthetic_root, tmp_path, "--resume", more=HALVES)
    with Job(command, tmp_path / "out.txt", ranks=2) as job:
        assert job.finish(180) == 0
        assert re.search(r"passed over a checkpoint: .*iter_8\.pth must be a whole", job.output())
        assert f"resumed {tmp_path / 'iter_6.pth'}: epoch 2, iteration 6" in job.output()
    assert_same_training(unbroken / "iter_10.pth", tmp_path / "iter_10.pth")


def test_a_run_of_two_ranks_goes_on_with_one(
    synthetic_root: Path, unbroken: Path, tmp_path: Path
) -> None:
    saved = unbroken / "iter_6.pth"
    command = arguments(synthetic_root, tmp_path, "--resume", saved)
    with Job(command, tmp_path / "out.txt") as job:
        assert job.finish(180) == 0, job.output()[-2000:]
        assert f"resumed {saved}: epoch 2, iteration 6" in job.output()
    ended = checkpoint.read(tmp_path / "iter_10.pth")
    assert ended["meta"]["iter"] == 10
    assert all(torch.isfinite(value).all() for value in ended["state_dict"].values())
    before = checkpoint.read(saved)["state_dict"]
    assert any(not torch.equal(before[k], value) for k, value in ended["state_dict"].items())
