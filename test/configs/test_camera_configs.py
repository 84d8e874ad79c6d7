"""The camera configs: what they build, and the curves their schedules draw."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from torch import nn

import anybev
from anybev.datasets.sample import collate
from anybev.engine import config as configs
from anybev.engine.amp import AmpOptimWrapper
from anybev.engine.builder import build_detector
from anybev.engine.registry import DATASETS, SCOPE, TRANSFORMS
from anybev.engine.train import apply_flags, parser
from anybev.evaluation.export import submission_meta

FOLDER = Path(anybev.__file__).parent / "configs"
LIDAR_CAM, CAM, LIDAR = (
    FOLDER / f"bevfusion/bevfusion_{name}_8xb4-cyclic-20e_nus-3d.py"
    for name in (
        "lidar-cam_voxel0075_second_secfpn",
        "cam_swint_second_secfpn",
        "lidar_voxel0075_second_secfpn",
    )
)
ITERATIONS = 3862  # of an epoch: 123,580 resampled frames in batches of 32
CAMERAS = 118 * 32 * 88 * 3 + 9  # frozen: frustum, dx, bx, nx


@pytest.fixture(scope="module")
def lidar_cam() -> Config:
    return configs.load(LIDAR_CAM)


@pytest.fixture(scope="module")
def detector(lidar_cam: Config) -> nn.Module:
    return build_detector(lidar_cam.model)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*_nus-3d.py")), ids=lambda p: p.stem)
def test_every_config_is_known_key_by_key_and_its_pipelines_build(path: Path) -> None:
    config = configs.load(path)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        dataset = loader.dataset
        pipeline = dataset.get("pipeline") or dataset.dataset.pipeline
        for step in pipeline:
            if step.type != "ObjectSample":  # it reads its data base at once
                TRANSFORMS.build(dict(step))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*_nus-3d.py")), ids=lambda p: p.stem)
def test_submissions_say_which_sensors_the_model_reads(path: Path) -> None:
    config = configs.load(path)
    for evaluator in (config.val_evaluator, config.test_evaluator):
        meta = submission_meta(evaluator.get("modality"))
        assert meta["use_camera"] == bool(config.model.get("img_backbone"))
        assert meta["use_lidar"] == bool(config.model.get("pts_middle_encoder"))


def test_small_classes_are_found_by_name_in_a_list_of_ones_own(tmp_path: Path) -> None:
    head = configs.load(LIDAR).model.bbox_head.test_cfg
    assert "pointwise_classes" not in head
    assert "nms_radius" not in head
    own = tmp_path / "own.py"
    own.write_text(f"_base_ = [{str(LIDAR)!r}]\nclass_names = ['traffic_cone', 'car', 'walker']\n")
    head = configs.load(own).model.bbox_head.test_cfg
    assert head.pointwise_classes == [0]
    assert head.nms_radius == [0.175, -1.0, -1.0]


def test_lidar_cam_has_the_published_parameters(detector: nn.Module) -> None:
    counts = {True: 0, False: 0}
    for parameter in detector.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert counts == {True: 39_803_214, False: CAMERAS}
    assert sum(p.numel() for p in detector.img_backbone.parameters()) == 27_520_506
    assert sum(p.numel() for p in detector.img_neck.parameters()) == 1_591_296
    assert sum(p.numel() for p in detector.fusion_layer.parameters()) == 774_656


def test_cameras_alone_have_no_lidar_branch() -> None:
    detector = build_detector(configs.load(CAM).model)
    assert detector.pts_middle_encoder is None
    assert detector.fusion_layer is None
    assert detector.view_transform.depthnet.weight.shape == (198, 256, 1, 1)
    assert detector.pts_backbone.blocks[0][0].in_channels == 80
    assert sum(p.numel() for p in detector.parameters() if p.requires_grad) == 34_744_894


def test_the_lidar_config_is_as_it_was(detector: nn.Module) -> None:
    lidar = build_detector(configs.load(LIDAR).model)
    theirs = {key: value.shape for key, value in lidar.state_dict().items()}
    ours = {key: value.shape for key, value in detector.state_dict().items()}
    camera = ("img_backbone.", "img_neck.", "view_transform.", "fusion_layer.")
    assert theirs == {key: shape for key, shape in ours.items() if not key.startswith(camera)}
    assert (len(theirs), len(ours)) == (306, 582)


def test_the_fusion_pipeline_is_the_published_one(lidar_cam: Config) -> None:
    dataset = lidar_cam.train_dataloader.dataset
    assert dataset.type == "CBGSDataset"
    steps = {step.type: step for step in dataset.dataset.pipeline}
    assert list(steps) == [
        "BEVLoadMultiViewImageFromFiles",
        "LoadPointsFromFile",
        "LoadPointsFromMultiSweeps",
        "LoadAnnotations3D",
        "ImageAug3D",
        "BEVFusionGlobalRotScaleTrans",
        "BEVFusionRandomFlip3D",
        "PointsRangeFilter",
        "ObjectRangeFilter",
        "ObjectNameFilter",
        "GridMask",
        "PointShuffle",
    ]
    assert steps["ImageAug3D"].resize_lim == [0.38, 0.55]
    assert steps["ImageAug3D"].final_dim == lidar_cam.model.view_transform.image_size
    assert lidar_cam.train_cfg.max_epochs == 6
    assert lidar_cam.train_cfg.val_interval == 1
    assert lidar_cam.default_hooks.checkpoint.interval == 1
    assert lidar_cam.auto_scale_lr == {"enable": False, "base_batch_size": 32}
    assert lidar_cam.find_unused_parameters is False
    assert "paramwise_cfg" not in lidar_cam.optim_wrapper  # decay on every parameter


@pytest.mark.parametrize("path", [LIDAR_CAM, CAM], ids=["lidar-cam", "cam"])
def test_flags_change_the_wrapper_and_nothing_beside(path: Path) -> None:
    plain, config = configs.load(path), configs.load(path)
    apply_flags(config, parser().parse_args([str(path), "--amp", "--auto-scale-lr"]))
    changed = {**plain.optim_wrapper, "type": "AmpOptimWrapper", "loss_scale": "dynamic"}
    assert config.optim_wrapper == changed
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 32}
    detector = nn.Sequential(nn.Linear(2, 2))
    with DefaultScope.overwrite_default_scope(SCOPE):
        wrapper = build_optim_wrapper(detector, config.optim_wrapper)
    assert isinstance(wrapper, AmpOptimWrapper)
    assert wrapper.clip_grad_kwargs == {"max_norm": 35, "norm_type": 2}


Curves = tuple[list[list[float]], list[float]]


def curves(
    config: Config, iterations: int = ITERATIONS, lr_mults: tuple[float, ...] = (1.0,)
) -> Curves:
    """Learning rates (of each group) and beta1 at every iteration of epochs so long."""
    options = dict(config.optim_wrapper.optimizer)
    assert options.pop("type") == "AdamW"
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": options["lr"] * mult} for mult in lr_mults
    ]
    optimizer = torch.optim.AdamW(groups, **options)
    schedulers = []
    for entry in config.param_scheduler:
        cfg = dict(entry)
        kind = PARAM_SCHEDULERS.get(cfg.pop("type"))
        if cfg.pop("convert_to_iter_based", False):
            make: Callable[..., object] = kind.build_iter_from_epoch
            schedulers.append(make(optimizer, **cfg, epoch_length=iterations))
        else:
            schedulers.append(kind(optimizer, **cfg))
    rates: list[list[float]] = []
    betas = []
    for _ in range(config.train_cfg.max_epochs * iterations):
        rates.append([group["lr"] for group in optimizer.param_groups])
        betas.append(optimizer.param_groups[0]["betas"][0])
        if not betas[1:]:
            optimizer.step()  # of no gradients; schedulers ask for the first one
        for scheduler in schedulers:
            scheduler.step()
    return rates, betas


def cosine(high: float, low: float, done: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * done)) / 2


def test_fusion_curves_at_anchor_steps(lidar_cam: Config) -> None:
    rates, betas = curves(lidar_cam)
    end = 6 * ITERATIONS
    assert rates[0][0] == pytest.approx(2e-4 / 3, rel=1e-6)
    for step in (100, 250, 499, 500, 501, ITERATIONS, end // 2, 5 * ITERATIONS, end - 2):
        warm = 1 / 3 + (2 / 3) * min(step / 499, 1)
        assert rates[step][0] == pytest.approx(
            warm * cosine(2e-4, 2e-8, step / end), rel=2e-3, abs=2e-9
        ), step
    assert max(rates)[0] == rates[499][0] < 2e-4
    assert rates[-1][0] == pytest.approx(2e-8, rel=1e-2)
    turn = int(2.4 * ITERATIONS)
    low = 0.85 / 0.95
    for step in (0, 1, 500, turn // 2, turn - 1, turn):
        assert betas[step] == pytest.approx(cosine(0.9, low, step / turn), abs=2e-6), step
    for step in (turn + 1, 3 * ITERATIONS, 5 * ITERATIONS, end - 1):
        done = (step - turn) / (end - turn)
        assert betas[step] == pytest.approx(cosine(low, 1.0, done), abs=2e-4), step
    assert betas[-1] < 1


def test_cameras_alone_keep_the_backbone_at_a_tenth() -> None:
    config = configs.load(CAM)
    rates, betas = curves(config, 200, (1.0, 0.1))
    assert rates[0] == pytest.approx([2e-4, 2e-5])
    top = max(range(len(rates)), key=lambda step: rates[step][0])
    assert top in (8 * 200 - 1, 8 * 200)
    assert rates[top] == pytest.approx([1e-3, 1e-4], rel=1e-4)
    assert rates[-1] == pytest.approx([2e-8, 2e-9], rel=0.1)
    assert min(betas) == pytest.approx(0.85 / 0.95, abs=1e-6)


@pytest.mark.parametrize("path", [LIDAR_CAM, CAM], ids=["lidar-cam", "cam"])
def test_a_synthetic_frame_passes_both_pipelines(path: Path, synthetic_root: Path) -> None:
    config = configs.load(path)
    for loader, split in ((config.train_dataloader, "train"), (config.val_dataloader, "val")):
        cfg = loader.dataset.get("dataset", loader.dataset)
        steps = [dict(step) for step in cfg.pipeline]
        for step in steps:
            if step["type"] == "ImageAug3D":  # these pictures are a quarter as wide and high
                step |= {"final_dim": [64, 176], "resampler": "fast"}
        dataset = DATASETS.build({**cfg, "data_root": str(synthetic_root), "pipeline": steps})
        batch = collate([dataset[0], dataset[1]])
        assert batch.cameras is not None
        assert batch.cameras.images.shape == (2, 6, 3, 64, 176)
        assert all((len(points) > 0) == (path == LIDAR_CAM) for points in batch.points_lidar_m)
        assert all((len(boxes) > 0) == (split == "train") for boxes in batch.boxes_lidar)
        turned = batch.lidar_aug_matrix - torch.eye(4)
        assert bool(turned.abs().max() > 0.01) == (split == "train")


def test_reading_a_config_imports_no_host() -> None:
    """Its types bear names of mmdet and mmdetection3d, which may be installed, unpatched."""
    code = (
        "import sys; from anybev.engine import config; "
        f"config.load({str(LIDAR_CAM)!r}); "
        "assert not {'mmdet', 'mmdet3d', 'mmcv'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
