"""Training, resuming and scoring with cameras, as a user starts them."""

import json
from pathlib import Path

import pytest
import torch

from anybev.engine import checkpoint
from anybev.testing.processes import run_tool
from anybev.testing.tiny_config import CAMERA_CONFIG_FILE, tiny_camera_options

ONE_EPOCH = {
    "train_cfg__max_epochs": "1",
    "param_scheduler__0__total_steps": "1",
    "default_hooks__checkpoint__by_epoch": "False",
    "default_hooks__checkpoint__interval": "3",
}


@pytest.fixture(scope="module")
def unbroken(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of five batches, a checkpoint after the third and the last."""
    work_dir = tmp_path_factory.mktemp("unbroken")
    options = tiny_camera_options(synthetic_root, **ONE_EPOCH)
    options += ["train_cfg.val_interval=1"]
    run_tool("train.py", CAMERA_CONFIG_FILE, "--work-dir", work_dir, "--cfg-options", *options)
    return work_dir


def test_cameras_are_trained(unbroken: Path) -> None:
    before, after = (checkpoint.read(unbroken / f"iter_{n}.pth")["state_dict"] for n in (3, 5))
    for part in ("img_backbone", "img_neck", "view_transform.depthnet", "fusion_layer"):
        weights = [key for key in after if key.startswith(part) and key.endswith("weight")]
        assert weights
        assert any(not torch.equal(before[key], after[key]) for key in weights), part


def test_resume_inside_an_epoch_is_bit_equal_with_cameras(
    unbroken: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    options = tiny_camera_options(synthetic_root, **ONE_EPOCH)
    options += ["train_cfg.val_interval=9"]
    arguments = ["--work-dir", tmp_path, "--resume", unbroken / "iter_3.pth"]
    run_tool("train.py", CAMERA_CONFIG_FILE, *arguments, "--cfg-options", *options)
    first, second = (checkpoint.read(f / "iter_5.pth") for f in (unbroken, tmp_path))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for key, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][key]), key


def test_evaluation_repeats_the_training_runs_score(unbroken: Path, tmp_path: Path) -> None:
    config = unbroken / CAMERA_CONFIG_FILE.name
    result = run_tool("test.py", config, unbroken / "iter_5.pth", "--work-dir", tmp_path)
    again = json.loads(result.stdout.splitlines()[-1])
    trained = json.loads((unbroken / "metrics.json").read_text())
    same = set(trained) - {"FPS", "train"}
    assert {key: again[key] for key in same} == {key: trained[key] for key in same}
