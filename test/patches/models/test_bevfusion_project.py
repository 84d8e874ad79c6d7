"""mmdetection3d's own projects/BEVFusion, from a user's checkout, beside AnyBEV's BEVFusion."""

import copy
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev import envs
from anybev.datasets.sample import Batch, CameraBatch
from anybev.engine.builder import build_detector
from anybev.testing.host_models import arguments
from anybev.testing.processes import run_tool
from anybev.testing.tiny_config import tiny_model_options

pytestmark = pytest.mark.filterwarnings("default")

# Three stages of the encoder instead of four: a quarter of the cells on the map, not an eighth.
_COARSER = {
    "model.pts_middle_encoder.encoder_paddings": ((0, 0, 1), (0, 0, 1), (0, 0)),
    "model.bbox_head.train_cfg.out_size_factor": 4,
    "model.bbox_head.test_cfg.out_size_factor": 4,
    "model.bbox_head.bbox_coder.out_size_factor": 4,
}
# mmdetection3d pads pictures to multiples of 32 pixels.
SIZE = (64, 192)
_WIDER = {
    "model.view_transform.image_size": list(SIZE),
    "model.view_transform.feature_size": [8, 24],
}


@pytest.fixture(scope="module")
def source() -> Path:
    """The checkout; skips where none is named."""
    folder = envs.mmdet3d_source()
    if folder is None:
        pytest.skip("no checkout of mmdetection3d: set ANYBEV_MMDET3D_SRC to one")
    return folder


@pytest.fixture(scope="module")
def project(host: list[Any], source: Path) -> Iterator[Path]:
    """The checkout with projects/BEVFusion imported from it, as its configs do."""
    sys.path.append(str(source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        __import__("projects.BEVFusion.bevfusion")
    yield source
    sys.path.remove(str(source))


def config_file(source: Path, sensors: str) -> Path:
    folder = source / "projects/BEVFusion/configs"
    return folder / f"bevfusion_{sensors}_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"


def model_config(source: Path, sensors: str, *, full: bool = False) -> Any:
    """``model`` of the project's config; coarser and narrower unless ``full``."""
    from mmengine.config import Config

    config = Config.fromfile(config_file(source, sensors))
    if sensors == "lidar-cam":
        config.model.img_backbone.init_cfg = None
    if not full:
        with_cameras = sensors == "lidar-cam"
        options = tiny_model_options(cameras=with_cameras) | _COARSER
        config.merge_from_dict(options | (_WIDER if with_cameras else {}))
    return config.model


def scene(points: int, size: tuple[int, int]) -> tuple[list[Tensor], Tensor, Tensor, CameraBatch]:
    """Points on a ring-shaped ground and on boxes, the boxes, labels, and six noisy pictures."""
    rng = np.random.default_rng(5)
    boxes = np.zeros((12, 9), np.float32)
    boxes[:, :2] = rng.uniform(-40, 40, (12, 2))
    boxes[:, 2] = -1.8
    boxes[:, 3:6] = rng.uniform(1.0, 5.0, (12, 3))
    boxes[:, 6] = rng.uniform(-3, 3, 12)
    boxes[:, 7:] = rng.normal(0, 2, (12, 2))
    radius, angle = rng.uniform(2, 52, points), rng.uniform(0, 2 * np.pi, points)
    ground = np.stack(
        [radius * np.cos(angle), radius * np.sin(angle), rng.normal(-1.8, 0.05, points)]
    )
    inside = boxes[rng.integers(0, 12, points // 3)]
    objects = inside[:, :3] + rng.uniform(-0.5, 0.5, (len(inside), 3)) * inside[:, 3:6]
    xyz = np.concatenate([ground.T, objects])
    features = rng.uniform(0, 1, (len(xyz), 2))
    cloud = torch.from_numpy(np.concatenate([xyz, features], 1).astype(np.float32))
    cam2img, lidar2cam = np.zeros((6, 4, 4)), np.zeros((6, 4, 4))
    for camera in range(6):
        # Not along the axes, where the points of a picture lie on the borders of map cells.
        yaw = np.pi / 3 * camera + rng.uniform(0.05, 0.25)
        cam2img[camera] = np.eye(4)
        cam2img[camera, 0, 0] = cam2img[camera, 1, 1] = 0.8 * size[1]
        cam2img[camera, 0, 2], cam2img[camera, 1, 2] = size[1] / 2, size[0] / 2
        lidar2cam[camera] = np.eye(4)
        lidar2cam[camera, :3, :3] = [
            [np.sin(yaw), -np.cos(yaw), 0],
            [0, 0, -1],
            [np.cos(yaw), np.sin(yaw), 0],
        ]
        lidar2cam[camera, :3, 3] = rng.uniform(-0.7, 0.7, 3)
    matrices = {
        "cam2img": cam2img,
        "lidar2img": cam2img @ lidar2cam,
        "cam2lidar": np.linalg.inv(lidar2cam),
        "img_aug_matrix": np.broadcast_to(np.eye(4), (6, 4, 4)),
    }
    cameras = CameraBatch(
        images=torch.from_numpy(rng.integers(0, 256, (1, 6, 3, *size), dtype=np.uint8)),
        **{name: torch.tensor(m, dtype=torch.float32)[None] for name, m in matrices.items()},
    )
    return [cloud], torch.from_numpy(boxes), torch.from_numpy(rng.integers(0, 10, 12)), cameras


def host_input(
    points: list[Tensor], boxes: Tensor, labels: Tensor, cameras: CameraBatch | None
) -> dict[str, Any]:
    """The scene as mmdetection3d's data pipeline packs it."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    sample = Det3DDataSample()
    meta: dict[str, Any] = {
        "box_type_3d": LiDARInstance3DBoxes,
        "lidar_aug_matrix": np.eye(4, dtype=np.float32),
        "num_pts_feats": 5,
    }
    inputs: dict[str, Any] = {"points": points}
    if cameras is not None:
        for name in ("cam2img", "lidar2img", "cam2lidar", "img_aug_matrix"):
            meta[name] = getattr(cameras, name)[0].numpy()
        # Pictures reach the project in the order of its decoder, and its preprocessor turns none.
        inputs["img"] = [cameras.images[0].float()]
    sample.set_metainfo(meta)
    sample.gt_instances_3d = InstanceData()
    sample.gt_instances_3d.bboxes_3d = LiDARInstance3DBoxes(boxes, box_dim=9)
    sample.gt_instances_3d.labels_3d = labels
    return {"inputs": inputs, "data_samples": [sample]}


def build(config: Any, seed: int) -> torch.nn.Module:
    """The project's model with weights that have seen no training, but move every layer."""
    from mmdet3d.registry import MODELS
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet3d")
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(config))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


def break_ties(model: Any) -> None:
    """Add one noise to the map the head sees: empty cells of an untrained map tie exactly."""

    def add_noise(_: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        noise = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(7))
        return (inputs[0] + 0.05 * noise,)

    model.bbox_head.shared_conv.register_forward_pre_hook(add_noise)


def losses_of(model: Any, data: dict[str, Any]) -> dict[str, Tensor]:
    packed = model.data_preprocessor(copy.deepcopy(data), True)
    return model(**packed, mode="loss")


def boxes_of(model: Any, data: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        packed = model.data_preprocessor(copy.deepcopy(data), False)
        found = model(**packed, mode="predict")[0].pred_instances_3d
    return found.bboxes_3d.tensor, found.scores_3d, found.labels_3d


@pytest.mark.parametrize("sensors", ["lidar", "lidar-cam"])
def test_trains_and_agrees_with_ours(project: Path, sensors: str) -> None:
    """Forward, loss, backward and boxes, from one set of weights, on one device."""
    check(model_config(project, sensors), sensors, points=6000, size=SIZE, gradients=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sensors", ["lidar", "lidar-cam"])
def test_published_size_agrees_with_ours(project: Path, sensors: str) -> None:
    """The same with the project's config as it is: 1440 x 1440 x 41 cells, 256 x 704 pixels."""
    config = model_config(project, sensors, full=True)
    # Some 900 pixels of the depth pictures see several points, and which of them counts is not
    # fixed upstream: the gradients of what reads those pictures differ.
    check(config, sensors, points=45000, size=(256, 704), gradients=3e-2)


@pytest.mark.slow
def test_project_trains_and_is_evaluated_by_the_tools(
    project: Path, synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own config, pipeline, head and hooks; one epoch on one scene."""
    monkeypatch.setenv("PYTHONPATH", str(project))
    database = "train_dataloader.dataset.dataset.pipeline.3.db_sampler"
    options = (
        tiny_model_options(cameras=False)
        | _COARSER
        | {
            "train_cfg.max_epochs": 1,
            "optim_wrapper.optimizer.lr": 2e-3,
            "model.pts_middle_encoder.norm_cfg.momentum": 0.1,
            "default_hooks.logger.interval": 1,
            "train_dataloader.dataset.dataset.data_root": f"{synthetic_root}/",
            f"{database}.data_root": f"{synthetic_root}/",
            f"{database}.info_path": f"{synthetic_root}/nuscenes_dbinfos_train.pkl",
            "val_evaluator.ann_file": f"{synthetic_root}/nuscenes_infos_val.pkl",
            "val_evaluator.data_root": f"{synthetic_root}/",
            "test_evaluator.ann_file": f"{synthetic_root}/nuscenes_infos_val.pkl",
            "test_evaluator.data_root": f"{synthetic_root}/",
        }
    )
    for split in ("val", "test"):
        options[f"{split}_dataloader.dataset.data_root"] = f"{synthetic_root}/"
    for split in ("train", "val", "test"):
        options[f"{split}_dataloader.num_workers"] = 0
        options[f"{split}_dataloader.persistent_workers"] = False
    config = config_file(project, "lidar")
    flags = ["--cfg-options", *arguments(options)]
    run_tool("train.py", config, "--work-dir", tmp_path, *flags, seconds=600)
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert all(np.isfinite(losses))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    checkpoint, folder = tmp_path / "epoch_1.pth", tmp_path / "test"
    run_tool("test.py", config, checkpoint, "--work-dir", folder, *flags, seconds=600)
    scores = json.loads((folder / "test_metrics.json").read_text())
    trained = json.loads((tmp_path / "metrics.json").read_text())
    key = "NuScenes metric/pred_instances_3d_NuScenes/NDS"
    assert scores[key] == pytest.approx(trained[key])


def check(
    config: Any, sensors: str, *, points: int, size: tuple[int, int], gradients: float
) -> None:
    theirs = build(config, seed=3).eval()
    ours = build_detector(copy.deepcopy(config).to_dict()).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for model in (theirs, ours):
        break_ties(model)
    clouds, boxes, labels, pictures = scene(points, size)
    cameras = pictures if sensors == "lidar-cam" else None
    data = host_input(clouds, boxes, labels, cameras)
    batch = Batch(
        points_lidar_m=clouds,
        boxes_lidar=[boxes],
        labels=[labels],
        tokens=["scene"],
        lidar_aug_matrix=torch.eye(4)[None],
        cameras=cameras,
    )
    same_boxes(boxes_of(theirs, data), ours, batch)
    expected, got = losses_of(theirs, data), ours.loss(batch)
    for name in ("loss_heatmap", "layer_-1_loss_cls", "layer_-1_loss_bbox"):
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)
    for losses in (expected, got):
        torch.stack([value for name, value in losses.items() if "loss" in name]).sum().backward()
    same_gradients(theirs, dict(ours.named_parameters()), gradients)


def same_boxes(expected: tuple[Tensor, Tensor, Tensor], ours: Any, batch: Batch) -> None:
    """Every box has its like, of the same class and score; their order is free."""
    boxes, scores, labels = expected
    with torch.no_grad():
        (mine,) = ours.predict(batch)
    assert len(mine.scores) == len(scores) > 0
    apart = torch.cdist(boxes, mine.boxes_lidar, compute_mode="donot_use_mm_for_euclid_dist")
    distance = apart + 100 * (labels[:, None] != mine.labels)
    nearest, index = distance.min(1)
    same = (nearest < 1e-3) & ((mine.scores[index] - scores).abs() < 1e-5)
    assert same.all(), f"{int((~same).sum())} boxes differ"
    assert len(index.unique()) == len(index)


def same_gradients(theirs: torch.nn.Module, ours: dict[str, Tensor], share: float) -> None:
    for name, parameter in theirs.named_parameters():
        if not parameter.requires_grad:
            continue
        expected, got = parameter.grad, ours[name].grad
        assert expected is not None, name
        assert got is not None, name
        assert expected.isfinite().all(), name
        difference = float((got - expected).norm())
        # The absolute part is for biases whose terms cancel.
        allowed = share * float(expected.norm()) + 1e-6
        assert difference <= allowed, f"{name}: {difference:.1e} apart, allowed {allowed:.1e}"
