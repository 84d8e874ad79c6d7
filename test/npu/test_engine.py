"""``tools/train.py`` and ``tools/test.py`` on the simulated npu: train, score, save, resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anybev.engine import checkpoint
from anybev.engine.test import evaluate
from anybev.engine.train import train
from anybev.reporting.job_status import job_status
from anybev.testing.processes import run_tool
from anybev.testing.tiny_config import (
    CAMERA_CONFIG_FILE,
    CONFIG_FILE,
    tiny_camera_options,
    tiny_options,
)
from anybev.testing.tiny_training import assert_same_training
from anybev.testing.tolerances import tolerances

EVERY_STEP = {
    "train_dataloader__dataset__ann_file": "short.pkl",
    "train_dataloader__batch_size": "2",
    "train_dataloader__sampler__batch_size": "2",
    "train_cfg__max_epochs": "1",
    "param_scheduler__0__total_steps": "1",
    "default_hooks__checkpoint__by_epoch": "False",
    "default_hooks__checkpoint__interval": "1",
    "default_hooks__checkpoint__max_keep_ckpts": "9",
}


def options(root: Path, *, cameras: bool = False, **more: str) -> list[str]:
    make = tiny_camera_options if cameras else tiny_options
    chosen = {**EVERY_STEP, **more}
    return make(root, **chosen)


@pytest.fixture(scope="module")
def trained(short_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of three steps and an evaluation of the lidar model."""
    work_dir = tmp_path_factory.mktemp("trained")
    train([str(CONFIG_FILE), "--work-dir", str(work_dir), "--cfg-options", *options(short_root)])
    return work_dir


def facts(work_dir: Path) -> dict[str, Any]:
    (file,) = work_dir.glob("*/environment.json")
    return json.loads(file.read_text())


def detections(work_dir: Path) -> dict[str, list[dict[str, Any]]]:
    (file,) = work_dir.glob("*/nuscenes/results_nusc.json")
    return json.loads(file.read_text())["results"]


def test_a_run_ends_with_scores_and_checkpoints(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {"NDS", "mAP", "FPS"} <= metrics.keys()
    assert metrics["train"]["steps"] == 3
    assert facts(trained)["backend"] == "npu"
    assert job_status(trained).state == "finished"
    saved = checkpoint.read(trained / "iter_3.pth")
    assert saved["state"]["rng"][0]["backend"] == "npu"
    assert {value.device.type for value in saved["state_dict"].values()} == {"cpu"}
    moments = saved["state"]["optimizer"]["state"][0]
    assert moments["exp_avg"].abs().sum() > 0


def test_resuming_gives_the_same_curve(short_root: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ["--work-dir", str(tmp_path), "--resume", str(trained / "iter_1.pth")]
    no_scores = options(short_root, train_cfg__val_begin="9")
    train([str(CONFIG_FILE), *arguments, "--cfg-options", *no_scores])
    assert_same_training(trained / "iter_3.pth", tmp_path / "iter_3.pth")
    one, other = (checkpoint.read(folder / "iter_3.pth") for folder in (trained, tmp_path))
    assert torch.equal(one["state"]["rng"][0]["device"], other["state"]["rng"][0]["device"])


def test_the_checkpoint_detects_the_same_on_npu_and_cpu(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANYBEV_SIMULATE")
    config, weights = trained / CONFIG_FILE.name, trained / "iter_3.pth"
    run_tool("test.py", config, weights, "--work-dir", tmp_path)
    assert facts(tmp_path)["backend"] == "cpu"
    on_npu, on_cpu = detections(trained), detections(tmp_path)
    assert on_npu.keys() == on_cpu.keys()
    atol = tolerances(torch.float32, "boxes")["atol"]
    for token, boxes in on_npu.items():
        scores = [box["detection_score"] for box in boxes]
        expected = [box["detection_score"] for box in on_cpu[token]]
        assert scores == pytest.approx(expected, abs=atol), token


def test_cameras_train_in_float16_and_are_scored(short_root: Path, tmp_path: Path) -> None:
    arguments = [str(CAMERA_CONFIG_FILE), "--work-dir", str(tmp_path), "--amp", "--cfg-options"]
    train([*arguments, *options(short_root, cameras=True, train_cfg__val_begin="9")])
    assert facts(tmp_path)["mixed_precision"] is True
    saved = checkpoint.read(tmp_path / "iter_3.pth")
    assert saved["state"]["optimizer"]["loss_scaler"]["scale"] > 0
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    scored = tmp_path / "scored"
    config, weights = tmp_path / CAMERA_CONFIG_FILE.name, tmp_path / "iter_3.pth"
    metrics = evaluate([str(config), str(weights), "--work-dir", str(scored)])
    assert {"NDS", "mAP"} <= metrics.keys()
    assert facts(scored)["backend"] == "npu"
