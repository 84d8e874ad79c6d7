"""The demo's own steps: options for any folder, a camera branch made from what is asked for."""

import argparse
from pathlib import Path

import pytest

from anybev import demo
from anybev.engine.launch import add_common_flags


@pytest.mark.parametrize("name", ["data", "my data", "a,b", "my data, new (2)"])
def test_options_point_at_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_common_flags(parser)
    root = tmp_path / name
    words = ["--cfg-options", *demo.config_options(root, 3)]
    options = parser.parse_args(words).cfg_options
    assert options["train_dataloader.dataset.data_root"] == str(root)
    assert options["val_evaluator.ann_file"] == str(root / "nuscenes_infos_val.pkl")
    assert options["randomness.seed"] == 3


def test_the_camera_branch_is_made_anew_from_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def pretrain(config: object, out: Path, *, steps: int, **_: object) -> None:
        made.append(steps)
        out.write_bytes(b"weights")

    monkeypatch.setattr("anybev.engine.pretrain_cameras.pretrain_cameras", pretrain)
    out, lidar, root = tmp_path / "start.pth", tmp_path / "lidar.pth", tmp_path / "my data"
    root.mkdir()
    lidar.write_bytes(b"first")

    def count(seed: int = 0, steps: int = 1, checkpoint: Path | None = lidar) -> int:
        demo.train_cameras(out, root, seed, steps, checkpoint)
        return len(made)

    assert [count(), count()] == [1, 1]
    assert [count(seed=1), count(seed=1, steps=2), count(checkpoint=None)] == [2, 3, 4]
    assert [count(), count()] == [5, 5]
    lidar.write_bytes(b"second")
    assert count() == 6
    (root / demo.DATA_DONE).write_text('{"scenes": 2}')
    assert count() == 7
    out.with_suffix(".json").unlink()
    assert count() == 8
