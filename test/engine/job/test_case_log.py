"""The result file and the last lines, from metrics.json alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from anybev.engine.job.case_log import read_case
from anybev.engine.job.options import JobOptions

TRAIN = {
    "samples_per_s": 26.4612345,
    "step_time_s": 1.2093,
    "loss": 3.25,
    "device": "Ascend910B3",
    "precision": "fp16",
    "world_size": 8,
    "global_batch": 32,
}


def options(tmp_path: Path, **more: Any) -> JobOptions:
    known: dict[str, Any] = {"config": Path("c.py"), "batch_size": 4, "output_dir": tmp_path}
    return JobOptions(**(known | more))


def write(tmp_path: Path, content: Any) -> Path:
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    return tmp_path


def test_lines_are_drivingsdks(tmp_path: Path) -> None:
    work_dir = write(tmp_path, {"NDS": 0.7011, "mAP": 0.6801, "train": TRAIN})
    case = read_case(options(tmp_path), work_dir, 3600.4)
    case.write()
    assert case.file == tmp_path / "BEVFusion_bs4_8p_acc.log"
    assert case.file.read_text().splitlines() == [
        "Network = BEVFusion",
        "RankSize = 8",
        "BatchSize = 4",
        "DeviceType = Ascend910B3",
        "CaseName = BEVFusion_bs4_8p_acc",
        "ActualFPS = 26.4612",
        "TrainingTime = 1.2093",
        "ActualLoss = 3.25",
        "NDS = 0.7011",
        "mAP = 0.6801",
        "E2ETrainingTime = 3600",
        "Precision = fp16",
    ]
    assert list(case.final[1:]) == [
        "Final Performance images/sec : 26.4612",
        "Final Train Loss : 3.25",
        "NDS : 0.7011",
        "mAP : 0.6801",
        "E2E Training Duration sec : 3600",
    ]


def test_two_nodes_and_performance_name_the_file(tmp_path: Path) -> None:
    work_dir = write(tmp_path, {"train": TRAIN | {"precision": "bf16", "global_batch": 64}})
    job = options(tmp_path, kind="performance", nnodes=2, master_addr="a", demo=True)
    case = read_case(job, work_dir, 1.0)
    assert case.file.name == "BEVFusion_bs4_16p_performance.log"
    assert "NDS = not measured" in case.lines
    assert "Precision = bf16" in case.lines
    assert "not comparable with nuScenes" in case.lines[-1]


def test_numbers_that_are_none_are_said(tmp_path: Path) -> None:
    work_dir = write(tmp_path, {"NDS": None, "train": {"samples_per_s": None}})
    case = read_case(options(tmp_path, batch_size=None), work_dir, 1.0)
    assert "ActualFPS = not measured" in case.lines
    assert "DeviceType = not measured" in case.lines
    assert "BatchSize = 1" in case.lines


def test_batch_size_of_the_config_comes_from_the_global_one(tmp_path: Path) -> None:
    case = read_case(options(tmp_path, batch_size=None), write(tmp_path, {"train": TRAIN}), 1.0)
    assert "BatchSize = 4" in case.lines


def test_training_without_measures_has_no_case(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics.json must be there after a training"):
        read_case(options(tmp_path), tmp_path, 1.0)
    with pytest.raises(ValueError, match="must hold an object, got list"):
        read_case(options(tmp_path), write(tmp_path, []), 1.0)


def test_resume_without_a_step_left_has_its_scores(tmp_path: Path) -> None:
    case = read_case(options(tmp_path), write(tmp_path, {"NDS": 0.5}), 1.0)
    assert {"NDS = 0.5", "ActualFPS = not measured", "BatchSize = 4"} <= set(case.lines)


def test_batch_size_is_the_one_that_trained(tmp_path: Path) -> None:
    content = {"train": TRAIN | {"global_batch": 64}}  # train_dataloader.batch_size=8 won
    case = read_case(options(tmp_path), write(tmp_path, content), 1.0)
    assert case.file.name == "BEVFusion_bs8_8p_acc.log"
    assert "BatchSize = 8" in case.lines
