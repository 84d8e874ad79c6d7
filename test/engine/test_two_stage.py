"""The two-stage recipe as a run sees it: a lidar checkpoint, pretrained pictures, then training."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.utils.data import DataLoader

from anybev.datasets.sampling import EpochSampler
from anybev.engine.builder import build_detector
from anybev.engine.checkpoint import CheckpointMismatchError, save
from anybev.engine.detector_adapter import DetectorAdapter
from anybev.engine.runner import Runner
from anybev.models.common.swin import SwinTransformer
from anybev.testing.tiny import tiny_model_cfg
from anybev.testing.tiny_cameras import tiny_camera_batch, tiny_camera_cfg

_NUMBERS = itertools.count()
CAMERA_PARTS = ["img_backbone", "img_neck", "view_transform", "fusion_layer"]


class QuickRunner(Runner):
    """Without the seconds that mmengine takes to describe the machine."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        pass


def runner(work_dir: Path, model: dict[str, Any], **top: Any) -> Runner:
    """A run of no epochs: it builds, loads and ends."""
    return QuickRunner(
        model=ConfigDict(model),
        work_dir=str(work_dir),
        train_dataloader=DataLoader([0, 1], sampler=EpochSampler(2, seed=0), batch_size=1),
        train_cfg={"type": "ResumableEpochLoop", "max_epochs": 0},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 0.1}},
        default_hooks={"sampler_seed": None, "checkpoint": None, "logger": None},
        load_from=top.get("load_from"),
        resume=top.get("resume", False),
        default_scope="anybev",
        # pytest cuts long names; two runs of one second would share one.
        experiment_name=f"{work_dir.name}_{next(_NUMBERS)}",
        cfg=Config(top),
    )


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a lidar model."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("stage_one") / "lidar.pth"
    save(path, build_detector(tiny_model_cfg()))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone of a detector that was trained on pictures."""
    torch.manual_seed(2)
    cfg = {k: v for k, v in tiny_camera_cfg()["img_backbone"].items() if k != "type"}
    state = {f"backbone.{k}": v for k, v in SwinTransformer(**cfg).state_dict().items()}
    path = tmp_path_factory.mktemp("pictures") / "swin.pth"
    torch.save({"state_dict": state | {"roi_head.weight": torch.zeros(1)}}, path)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def with_pictures(path: Path | str) -> dict:
    cfg = tiny_camera_cfg()
    cfg["img_backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": str(path)}
    return cfg


def test_both_files_fill_the_model_and_the_log_counts(
    stage_one: Path, pictures: Path, tmp_path: Path
) -> None:
    run = runner(
        tmp_path,
        with_pictures(pictures),
        load_from=str(stage_one),
        load_from_may_lack=CAMERA_PARTS,
    )
    run.train()
    state = run.detector.state_dict()
    lidar, swin = weights(stage_one), weights(pictures)
    for key, value in lidar.items():
        assert torch.equal(state[key], value), key
    left = {key for key in state if key not in lidar}
    assert {key.split(".")[0] for key in left} == set(CAMERA_PARTS)
    for key in left:
        if key.startswith("img_backbone."):
            assert torch.equal(state[key], swin[key.removeprefix("img_")]), key
    log = next(tmp_path.rglob("*.log")).read_text()
    entries = len(swin) - 1
    assert f"pretrained img_backbone: {entries} of {entries} entries, mmdet names behind" in log
    parts = [f"{part} {sum(k.startswith(part) for k in left)}" for part in CAMERA_PARTS]
    assert f"{len(lidar)} tensors, sparse weights in KRSC, {len(left)} left as they were" in log
    assert all(part in log for part in parts)


def test_a_part_that_is_not_named_must_be_there(stage_one: Path, tmp_path: Path) -> None:
    run = runner(tmp_path, tiny_camera_cfg(), load_from=str(stage_one))
    with pytest.raises(CheckpointMismatchError, match=r"missing in the file: img_backbone.patch_e"):
        run.train()
    parts = CAMERA_PARTS[1:]
    run = runner(tmp_path, tiny_camera_cfg(), load_from=str(stage_one), load_from_may_lack=parts)
    with pytest.raises(CheckpointMismatchError, match=r"missing in the file: img_backbone.patch_e"):
        run.train()


def test_a_test_never_takes_a_part_as_missing(stage_one: Path, tmp_path: Path) -> None:
    run = runner(
        tmp_path, tiny_camera_cfg(), load_from=str(stage_one), load_from_may_lack=CAMERA_PARTS
    )
    with pytest.raises(CheckpointMismatchError, match=r"missing in the file: img_backbone.patch_e"):
        run.load_or_resume()


def test_a_missing_picture_file_stops_the_run_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYBEV_WEIGHTS", str(tmp_path))
    run = runner(tmp_path, with_pictures("https://example.org/swin.pth"))
    with pytest.raises(FileNotFoundError, match=r"img_backbone: init_cfg.checkpoint .*swin.pth"):
        run.train()


def test_a_resumed_run_needs_no_picture_file(tmp_path: Path) -> None:
    run = runner(tmp_path, with_pictures("gone.pth"), resume=True)
    with pytest.raises(FileNotFoundError, match=r"init_cfg.checkpoint gone.pth must be an exist"):
        run._init_model_weights()  # nothing to resume from: a fresh start
    (tmp_path / "epoch_1.pth").touch()
    run._init_model_weights()


def test_decay_reaches_every_parameter_and_paramwise_finds_swin() -> None:
    adapter = DetectorAdapter(build_detector(tiny_camera_cfg()))
    cfg: dict[str, Any] = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 0.01},
    }
    groups = build_optim_wrapper(adapter, cfg).optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.01}
    held = sum(len(group["params"]) for group in groups)
    assert held == len(list(adapter.parameters()))
    cfg["paramwise_cfg"] = {
        "custom_keys": {
            "img_backbone": {"lr_mult": 0.1},
            "relative_position_bias_table": {"lr_mult": 0.1, "decay_mult": 0.0},
        }
    }
    optimizer = build_optim_wrapper(adapter, cfg).optimizer
    of = {id(group["params"][0]): group for group in optimizer.param_groups}
    for name, parameter in adapter.detector.named_parameters():
        if not parameter.requires_grad:
            continue
        group = of[id(parameter)]
        assert group["lr"] == pytest.approx(0.01 if name.startswith("img_backbone.") else 0.1)
        table = name.endswith("relative_position_bias_table")
        assert group["weight_decay"] == pytest.approx(0.0 if table else 0.01), name


def test_the_optimizer_takes_frozen_whole_numbers() -> None:
    """``view_transform.nx`` is a frozen parameter of int64, as in published checkpoints."""
    detector: nn.Module = build_detector(tiny_camera_cfg())
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.1, weight_decay=0.01)
    before = detector.view_transform.nx.clone()
    for parameter in detector.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    torch.nn.utils.clip_grad_norm_(detector.parameters(), 35)
    optimizer.step()
    assert torch.equal(detector.view_transform.nx, before)


@pytest.mark.parametrize("lidar", [True, False], ids=["lidar-cam", "cam"])
def test_every_trainable_parameter_is_used(lidar: bool) -> None:
    """Hence ``find_unused_parameters=False`` in the camera configs."""
    torch.manual_seed(0)
    detector = build_detector(tiny_camera_cfg(lidar=lidar, depth=lidar)).train()
    batch = tiny_camera_batch()
    losses = detector.loss(batch)
    sum(value for name, value in losses.items() if "loss" in name).backward()
    unused = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
