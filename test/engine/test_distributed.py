"""Two processes on the CPU train, score and save one model."""

import json
import os
from pathlib import Path

import pytest
import torch

from anybev import envs
from anybev.device import get_backend
from anybev.engine import checkpoint, distributed, newest
from anybev.testing.processes import TOOLS, Job
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options
from anybev.testing.tolerances import tolerances

ATOL = tolerances(torch.float32)["atol"]


def _run(log: Path, tool: str, *arguments: object, ranks: int = 0) -> None:
    with Job(arguments, log, ranks=ranks, tool=TOOLS / tool) as job:
        assert job.finish(300) == 0, job.output()[-4000:]
    assert "Warning" not in job.output()


def _detections(work_dir: Path) -> dict[str, list[dict[str, float]]]:
    (file,) = work_dir.glob("*/nuscenes/results_nusc.json")
    found: dict[str, list[dict[str, float]]] = json.loads(file.read_text())["results"]
    return found


def test_two_processes_score_the_model_they_save(synthetic_root: Path, tmp_path: Path) -> None:
    options = ["--cfg-options", *tiny_options(synthetic_root), "train_cfg.max_epochs=1"]
    options += ["train_dataloader.batch_size=2", "train_dataloader.sampler.batch_size=2"]
    both, alone = tmp_path / "both", tmp_path / "alone"
    _run(tmp_path / "1.txt", "train.py", CONFIG_FILE, "--work-dir", both, *options, ranks=2)
    last = both / "epoch_1.pth"
    _run(tmp_path / "2.txt", "test.py", CONFIG_FILE, last, "--work-dir", alone, *options)
    trained, tested = _detections(both), _detections(alone)
    assert trained.keys() == tested.keys()
    for token, boxes in trained.items():
        scores = [box["detection_score"] for box in boxes]
        # Batches differ, so sums in torch's own layers do too.
        assert scores == pytest.approx([b["detection_score"] for b in tested[token]], abs=ATOL)


def test_pytorch_launcher_needs_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="must be started by torchrun, got no RANK"):
        distributed.join({"backend": "gloo"})


@pytest.mark.parametrize(("name", "itself"), [("cpu", True), ("cuda", False), ("npu", True)])
def test_the_backend_s_own_collectives_are_joined(
    name: str, itself: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "current_backend", lambda: get_backend(name))
    assert distributed.joins_by_itself("pytorch") is itself
    assert not distributed.joins_by_itself("slurm")


def test_a_rank_that_cannot_join_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    message = (
        r"rank 3: could not join the 4 processes that meet at 127\.0\.0\.1:1, over interface lo"
    )
    with pytest.raises(RuntimeError, match=message):
        distributed.join({"backend": "gloo", "timeout": 1})


def test_several_nodes_use_the_interface_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    distributed._choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    distributed._choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    distributed._choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_a_restart_takes_this_jobs_checkpoints(tmp_path: Path) -> None:
    old, new, bare = (tmp_path / f"epoch_{number}.pth" for number in (9, 1, 3))
    state = {"sampler": {}, "optimizer": {}}
    # The file server's clock is an hour behind for one and ahead for the other.
    for path, job_s, written_s in ((old, 1000.0, 5600.0), (new, 2000.5, 1.0)):
        meta = {"epoch": 1, "iter": 4, newest.JOB_STARTED: job_s}
        checkpoint.save(path, {}, meta=meta, state=state)
        os.utime(path, (written_s, written_s))
    checkpoint.save(bare, {"weight": torch.zeros(1)})  # of no job, without a training's state
    (tmp_path / newest.POINTER).write_text(str(old))
    assert newest.candidates(tmp_path)[0] == old
    found = newest.newest_good(tmp_path, 2000.5)
    assert found is not None
    assert (found.path, found.refused) == (new, ())
    assert newest.newest_good(tmp_path, 3000.0) is None


@pytest.mark.parametrize(("text", "expected"), [("", None), ("12.5", 12.5)])
def test_when_the_job_started(
    text: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(envs.JOB_STARTED, text)
    assert envs.job_started_s() == expected
    monkeypatch.setenv(envs.JOB_STARTED, "yesterday")
    with pytest.raises(ValueError, match="ANYBEV_JOB_STARTED must be seconds since 1970, got 'yes"):
        envs.job_started_s()
