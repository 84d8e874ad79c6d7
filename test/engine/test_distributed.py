"""Two processes on the CPU train, score and save one model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import anybev
from anybev.engine import distributed
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options

TOOLS = Path(anybev.__file__).resolve().parents[2] / "tools"


def _run(*command: object) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-4000:]
    assert "Warning" not in result.stderr


def _detections(work_dir: Path) -> dict[str, list[dict[str, float]]]:
    (file,) = work_dir.glob("*/nuscenes/results_nusc.json")
    found: dict[str, list[dict[str, float]]] = json.loads(file.read_text())["results"]
    return found


def test_two_processes_score_the_model_they_save(synthetic_root: Path, tmp_path: Path) -> None:
    options = ["--cfg-options", *tiny_options(synthetic_root), "train_cfg.max_epochs=1"]
    options += ["train_dataloader.batch_size=2", "train_dataloader.sampler.batch_size=2"]
    both, alone = tmp_path / "both", tmp_path / "alone"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    flags = ["--launcher", "pytorch", "--work-dir", both]
    _run(*torchrun, TOOLS / "train.py", CONFIG_FILE, *flags, *options)
    _run(TOOLS / "test.py", CONFIG_FILE, both / "epoch_1.pth", "--work-dir", alone, *options)
    trained, tested = _detections(both), _detections(alone)
    assert trained.keys() == tested.keys()
    for token, boxes in trained.items():
        scores = [box["detection_score"] for box in boxes]
        # Thread counts differ, so sums in torch's own layers do too.
        assert scores == pytest.approx([b["detection_score"] for b in tested[token]], abs=1e-6)


def test_pytorch_launcher_needs_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="must be started by torchrun, got no RANK"):
        distributed.join({"backend": "gloo"})
