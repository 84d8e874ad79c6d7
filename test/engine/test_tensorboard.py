"""Curves for TensorBoard, which is an optional package."""

from pathlib import Path

import pytest
from mmengine.config import Config

from anybev.engine.tensorboard import require_tensorboard, write_for_tensorboard
from anybev.testing.processes import run_tool
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options


def types(config: Config) -> list[str]:
    return [backend["type"] for backend in config.visualizer.vis_backends]


def test_the_flag_adds_one_backend_once() -> None:
    config = Config({"visualizer": {"type": "Visualizer", "vis_backends": [{"type": "Local"}]}})
    write_for_tensorboard(config)
    write_for_tensorboard(config)
    assert types(config) == ["Local", "TensorboardVisBackend"]


def test_a_config_without_a_visualizer_keeps_the_local_files() -> None:
    config = Config({})
    write_for_tensorboard(config)
    assert types(config) == ["LocalVisBackend", "TensorboardVisBackend"]


def test_a_missing_package_is_named_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybev.engine.tensorboard.find_spec", lambda name: None)
    config = Config({})
    require_tensorboard(config)  # nobody asked for it
    write_for_tensorboard(config)
    with pytest.raises(RuntimeError, match=r"installed, got none; try \.venv/bin/pip install 't"):
        require_tensorboard(config)


def test_training_writes_its_curves(synthetic_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    options = tiny_options(synthetic_root, train_cfg__max_epochs="1", train_cfg__val_begin="9")
    flags = ["--tensorboard", "--work-dir", tmp_path, "--cfg-options", *options]
    run_tool("train.py", CONFIG_FILE, *flags)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = tmp_path.glob("*/vis_data/events.out.tfevents.*")
    curves = EventAccumulator(str(file)).Reload()
    assert [event.step for event in curves.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert {"time", "data_time", "memory", "lr"} <= set(curves.Tags()["scalars"])
