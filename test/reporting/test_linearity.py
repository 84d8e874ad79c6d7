"""`anybev report --linearity`: the table, and runs that must not be compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from anybev.cli import main
from anybev.reporting.linearity import compare
from anybev.reporting.status import write_json

CONFIG = """
model = dict(
    type='BEVFusion',
    data_preprocessor=dict(voxelize_cfg=dict(voxel_size=[0.075, 0.075, 0.2])),
    img_backbone=dict(type='SwinTransformer'))
train_cfg = dict(by_epoch=True, max_epochs={epochs})
train_dataloader = dict(batch_size={batch})
work_dir = '{name}'
optim_wrapper = dict(optimizer=dict(lr={lr}), type='OptimWrapper')
"""


def write_run(root: Path, name: str, **given: Any) -> Path:
    """A run folder; by default 8 processes of the printed anchor."""
    run = root / name
    train = {
        "samples_per_s": 26.46,
        "world_size": 8,
        "global_batch": 32,
        "precision": "fp32",
        "device": "Atlas 800T A2",
    }
    train |= {key: value for key, value in given.items() if key in train}
    config = {"epochs": 6, "batch": 4, "name": name, "lr": 1e-4} | given
    write_json(run / "metrics.json", given.get("metrics", {"NDS": 0.6998, "mAP": 0.6736}))
    if "metrics" not in given:
        content = json.loads((run / "metrics.json").read_text()) | {"train": train}
        write_json(run / "metrics.json", content)
    start = run / "20260101_000000"
    (start / "vis_data").mkdir(parents=True)
    (start / "vis_data" / "scalars.json").write_text('{"loss": 1.0, "step": 1}\n')
    (start / "vis_data" / "config.py").write_text(CONFIG.format(**config))
    facts = {"processor": given.get("processor", "EPYC"), "torch": "2.13.0"}
    write_json(start / "environment.json", facts)
    return run


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    return write_run(tmp_path, "eight")


def sixteen(root: Path, **given: Any) -> Path:
    more = {"world_size": 16, "global_batch": 64, "samples_per_s": 45.86, "epochs": 1}
    return write_run(root, "sixteen", **(more | given))


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", "--linearity", *map(str, arguments)])


def test_the_table_is_drivingsdks(eight: Path, tmp_path: Path) -> None:
    result = report(sixteen(tmp_path, lr=2e-4), eight)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "| NAME | Modality | Voxel type (voxel size) | precision | Epoch | global batch size | NDS "
        "| mAP | FPS | linearity |"
    )
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    expected = ["16p-Atlas 800T A2", "lidar-cam", "0.075", "FP32", "1", "64", "69.98", "67.36"]
    assert cells == [*expected, "45.86", "86.66%"]
    assert lines[3].endswith("| 26.46 | base |")
    assert "base run: 8p-Atlas 800T A2" in result.stdout
    assert not list(tmp_path.glob("*/report.html"))


def test_json_for_programs(eight: Path, tmp_path: Path) -> None:
    content = json.loads(report(eight, sixteen(tmp_path), "--json").stdout)
    assert content["base"] == "8p-Atlas 800T A2"
    assert [run["linearity"] for run in content["runs"]] == [1.0, pytest.approx(0.8666, abs=1e-4)]
    assert content["runs"][1]["samples_per_s"] == 45.86


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"global_batch": 32, "batch": 2}, "batch a process 2 in 16p-.*train_dataloader.batch"),
        ({"precision": "fp16"}, "precision fp16 in 16p-Atlas 800T A2, fp32 in 8p-Atlas 800T A2"),
        ({"device": "H100"}, "device H100 in 16p-H100, Atlas 800T A2 in 8p-Atlas"),
        ({"processor": "Xeon"}, "processor Xeon in 16p-Atlas 800T A2, EPYC in 8p-"),
    ],
)
def test_unlike_runs_are_compared_only_on_request(
    eight: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    other = sixteen(tmp_path, **given)
    with pytest.raises(ValueError, match="must differ in the number of processes alone") as error:
        compare([eight, other])
    assert error.match(message)
    found = report(eight, other, "--allow-differences")
    assert found.exit_code == 0
    assert "Not the same in all runs: " in found.stdout


def test_same_devices_are_told_apart_by_their_folders(eight: Path, tmp_path: Path) -> None:
    again = write_run(tmp_path, "again", samples_per_s=26.0)
    names = [speed.name for speed in compare([eight, again]).speeds]
    assert names == ["8p-Atlas 800T A2 (eight)", "8p-Atlas 800T A2 (again)"]


def test_a_config_that_cannot_be_read_is_said(eight: Path, tmp_path: Path) -> None:
    other = sixteen(tmp_path)
    (config,) = other.glob("*/vis_data/config.py")
    config.write_text("model = (")
    with pytest.raises(ValueError, match="no readable config of 16p-Atlas 800T A2"):
        compare([eight, other])
    assert "| - | - | FP32 | - |" in report(eight, other, "--allow-differences").stdout


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"NDS": 0.5}, "train must have samples_per_s, .*, got "),
        ([], "train must have samples_per_s"),
        (
            {
                "train": dict.fromkeys(
                    ("samples_per_s", "world_size", "global_batch", "precision", "device"), 0
                )
            },
            "samples_per_s must be positive, got 0",
        ),
    ],
)
def test_a_run_without_its_speed_is_named(tmp_path: Path, metrics: Any, message: str) -> None:
    run = write_run(tmp_path, "run", metrics=metrics)
    with pytest.raises(ValueError, match=message):
        compare([run])
    (run / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"must hold metrics\.json"):
        compare([run])


def test_allow_differences_belongs_to_linearity(eight: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(eight), "--allow-differences"])
    assert result.exit_code == 2
    assert "--allow-differences belongs to --linearity" in result.stderr
