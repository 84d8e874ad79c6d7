"""Training and evaluation as a user starts them: ``tools/train.py`` and ``tools/test.py``."""

import json
import platform
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from anybev.engine import checkpoint
from anybev.engine.train import _earlier
from anybev.reporting.job_status import job_status
from anybev.testing.processes import run_tool
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options

EPOCHS = {"train_cfg__max_epochs": "2", "param_scheduler__0__total_steps": "2"}
EVERY_3 = {
    "default_hooks__checkpoint__by_epoch": "False",
    "default_hooks__checkpoint__interval": "3",
}


@pytest.fixture(scope="module")
def unbroken(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of five batches without a break, a checkpoint every three iterations."""
    work_dir = tmp_path_factory.mktemp("unbroken")
    options = tiny_options(synthetic_root, **EPOCHS, **EVERY_3)
    options += ["train_cfg.val_interval=2", "default_hooks.checkpoint.max_keep_ckpts=9"]
    run_tool("train.py", CONFIG_FILE, "--work-dir", work_dir, "--cfg-options", *options)
    return work_dir


def test_training_writes_scalars_config_and_metrics(unbroken: Path) -> None:
    scalars = list(unbroken.glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for line in scalars[0].read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 10
    assert (unbroken / CONFIG_FILE.name).is_file()
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert {"NDS", "mAP", "FPS", "mATE", "mASE", "mAOE", "mAVE", "mAAE", "AP/car"} <= set(metrics)
    measured = metrics["train"]
    assert (measured["steps"], measured["first_step"], measured["epochs"]) == (10, 1, 2)
    assert 0 < measured["step_time_s"] < measured["seconds"]


def test_training_leaves_what_a_report_needs(unbroken: Path) -> None:
    (facts_file,) = unbroken.glob("*/environment.json")
    facts = json.loads(facts_file.read_text())
    assert facts["torch"] == torch.__version__
    assert facts["backend"] == "cpu"
    assert facts["config"] == CONFIG_FILE.name
    assert facts["seed"] == 0
    assert facts["host"] == platform.node()
    assert facts["world_size"] == 1
    assert facts["mixed_precision"] is False
    assert facts["peak_memory_mib"] > 100
    assert facts["fps"] == json.loads((unbroken / "metrics.json").read_text())["FPS"]
    for phase in ("train", "val"):
        times = facts["times"][phase]
        assert 0 < times["data_s"] < times["iteration_s"] < facts["seconds"]
    files = {path.name for path in (facts_file.parent / "nuscenes").iterdir()}
    assert {"pr_curves.json", "predictions.npz", "source.json"} <= files
    source = json.loads((facts_file.parent / "nuscenes" / "source.json").read_text())
    assert source["loading"]["data_prefix"]["pts"] == "samples/LIDAR_TOP"
    assert source["loading"]["load_dim"] == 5


def test_resume_without_a_step_left_keeps_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    assert _earlier(file, Config({"resume": True})) == {}
    measured = {"NDS": 0.5, "train": {"loss": 1.0}}
    file.write_text(json.dumps(measured))
    assert _earlier(file, Config({"resume": True})) == measured
    assert _earlier(file, Config({"resume": False})) == {}
    file.write_text("{")
    assert _earlier(file, Config({"resume": True})) == {}


def test_resume_inside_an_epoch_is_bit_equal(
    unbroken: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    options = tiny_options(synthetic_root, **EPOCHS, **EVERY_3)
    options += ["train_cfg.val_interval=9"]
    saved = unbroken / "iter_3.pth"
    assert checkpoint.read(saved)["state"]["sampler"]["done"] == 12
    run_tool(
        "train.py",
        CONFIG_FILE,
        "--work-dir",
        tmp_path,
        "--resume",
        saved,
        "--cfg-options",
        *options,
    )
    whole, resumed = (checkpoint.read(d / "iter_9.pth") for d in (unbroken, tmp_path))
    assert whole["meta"]["iter"] == resumed["meta"]["iter"] == 9
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    assert whole["state"]["hooks"] == {"keep_ckpt_ids": [3, 6, 9]}
    measured = json.loads((tmp_path / "metrics.json").read_text())["train"]
    assert (measured["first_step"], measured["steps"]) == (4, 7)
    for name in ("rng", "sampler", "param_schedulers", "hooks"):
        assert str(whole["state"][name]) == str(resumed["state"][name])


def test_evaluation_of_the_checkpoint_gives_the_same_numbers(
    unbroken: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    last = Path((unbroken / "last_checkpoint").read_text().strip())
    drawing = ["--show-dir", "pictures", "--show-frames", 1, "--score-thr", 0.05]
    result = run_tool(
        "test.py", unbroken / CONFIG_FILE.name, last, "--work-dir", tmp_path, *drawing
    )
    printed = json.loads(result.stdout.splitlines()[-1])
    ended = job_status(tmp_path)
    assert (ended.state, ended.kind, ended.metrics["NDS"]) == (
        "finished",
        "evaluate",
        printed["NDS"],
    )
    trained = json.loads((unbroken / "metrics.json").read_text())
    for name in set(trained) - {"FPS", "train"}:
        assert printed[name] == pytest.approx(trained[name], nan_ok=True), name
    drawn = [path.name for path in sorted(tmp_path.glob("*/pictures/*"))]
    assert [name.rpartition("_")[2] for name in drawn] == ["bev.png", "cameras.jpg"]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--score-thr", "1.5", "--score-thr must be in 0..1, got 1.5"),
        ("--show-score-thr", "-1", "--score-thr must be in 0..1, got -1.0"),
        ("--show-frames", "-1", "--show-frames must be 0 or more, got -1"),
    ],
)
def test_flags_of_drawing_are_checked_before_the_evaluation(
    flag: str, value: str, message: str
) -> None:
    from anybev.engine.test import evaluate

    with pytest.raises(ValueError, match=message):
        evaluate(["config.py", "checkpoint.pth", f"{flag}={value}"])


def test_amp_trains_in_bfloat16_and_auto_scale_lr_scales(
    synthetic_root: Path, tmp_path: Path
) -> None:
    options = tiny_options(synthetic_root, train_cfg__max_epochs="1", train_cfg__val_interval="9")
    options += ["auto_scale_lr.base_batch_size=8"]
    flags = ["--amp", "--auto-scale-lr", "--work-dir", tmp_path, "--cfg-options", *options]
    result = run_tool("train.py", CONFIG_FILE, *flags)
    assert "AmpOptimWrapper" in (tmp_path / CONFIG_FILE.name).read_text()
    assert "OneCycleLR eta_max 0.002 -> 0.001 (x 0.5): the global batch is 4" in result.stdout
    state = checkpoint.read(tmp_path / "epoch_1.pth")["state_dict"]
    assert all(torch.isfinite(v).all() for v in state.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_config.py"], "config: no file no_such_config.py"),
        (
            [CONFIG_FILE, "--cfg-options", "model.pts_backbone.layer_num=[1,1]"],
            "config: model.pts_backbone: SECOND must be given known keys, got 'layer_num'; "
            "try layer_nums",
        ),
        (
            [CONFIG_FILE, "--cfg-options", "optim_wraper.type=OptimWrapper"],
            "--cfg-options must name keys of .*got 'optim_wraper.type'; try optim_wrapper",
        ),
        (
            [CONFIG_FILE, "--cfg-options", "seed"],
            "--cfg-options must be KEY=VALUE pairs, got 'seed'",
        ),
        ([CONFIG_FILE, "--auto-scale-lr"], "--auto-scale-lr needs auto_scale_lr.base_batch_size"),
        ([CONFIG_FILE, "--resume", "nowhere.pth"], "nowhere.pth"),
        ([CONFIG_FILE, "--launcher", "pytorch"], "must be started by torchrun, got no RANK"),
    ],
)
def test_bad_input_ends_in_one_clear_line(
    arguments: list[object], message: str, synthetic_root: Path, tmp_path: Path
) -> None:
    if "--cfg-options" not in arguments:
        arguments = [*arguments, "--cfg-options", *tiny_options(synthetic_root)]
    result = run_tool("train.py", *arguments, "--work-dir", tmp_path, check=False)
    assert result.returncode == 2
    import re

    assert re.search(message, result.stderr.splitlines()[-1]), result.stderr[-500:]
    assert "Traceback" not in result.stderr


def test_weights_only_checkpoint_cannot_be_resumed(
    unbroken: Path, synthetic_root: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": checkpoint.read(unbroken / "iter_3.pth")["state_dict"]}, weights)
    options = ["--cfg-options", *tiny_options(synthetic_root)]
    arguments = [CONFIG_FILE, "--work-dir", tmp_path, "--resume", weights, *options]
    result = run_tool("train.py", *arguments, check=False)
    assert result.returncode == 2
    message = "must hold the optimizer and the position in the epoch"
    assert message in result.stderr
    ended = job_status(tmp_path)
    assert (ended.state, ended.kind) == ("failed", "train")
    assert message in ended.detail
