"""Parity of the camera branch: with a pack of the tiny model's own, and with one real picture."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import anybev
from anybev.datasets.sample import CameraBatch
from anybev.engine.builder import build_detector
from anybev.models.bevfusion.detector import BEVFusion
from anybev.testing import parity
from anybev.testing.golden import GoldenPack
from anybev.testing.golden_check import Checker, judge
from anybev.testing.processes import load_tool
from anybev.testing.tiny_cameras import tiny_camera_batch, tiny_camera_cfg

Arrays = dict[str, np.ndarray]
SEED = 5
MODEL = "lidar_cam"
CONFIG = "configs/_base_/models/bevfusion_lidar-cam_voxel0075_second_secfpn.py"
CAMERA_STAGES = (
    "input.images",
    "cam.swin0",
    "cam.swin2",
    "cam.neck0",
    "cam.geom",
    "cam.geom_counts",
    "cam.depth_image",
    "cam.depth_softmax",
    "cam.context",
    "cam.bev_pool",
    "cam.bev",
    "fused",
)


def _detector() -> BEVFusion:
    torch.manual_seed(0)
    detector = build_detector(tiny_camera_cfg())
    parity.fill_model(detector, SEED)
    return detector


def _inputs() -> Arrays:
    batch = tiny_camera_batch((4,), count=3)
    points, cameras = batch.points_lidar_m[0].clone(), batch.cameras
    points[:, 4] = 0
    images = cameras.images[0].permute(0, 2, 3, 1).numpy()
    names = ("cam2img", "lidar2img", "cam2lidar", "img_aug_matrix")
    matrices = {f"input/{name}": getattr(cameras, name)[0].double().numpy() for name in names}
    return matrices | {
        "input/points_key": points[:, :4].numpy(),
        "input/points_repeat": np.packbits(np.zeros(len(points), bool)),
        "input/points_dt": np.zeros(1, np.float32),
        "input/points_crc32": np.array([zlib.crc32(points.numpy().tobytes())]),
        "input/gt_boxes": batch.boxes_lidar[0].numpy(),
        "input/gt_labels": batch.labels[0].numpy().astype(np.int32),
        "input/lidar_aug_matrix": np.eye(4),
        "input/images_dx": np.diff(images, axis=2, prepend=np.uint8(0)),
    }


@pytest.fixture(scope="module")
def recorded() -> Arrays:
    arrays = _inputs()
    for name in ("head.top_class", "head.top_index", "train.gt_inds"):
        arrays[f"{MODEL}/{name}/full"] = np.zeros(0)
    arrays[f"{MODEL}/cam.depth_image/shape"] = np.array([3, 1, 32, 64])
    for _ in range(2):  # the second run follows the first one's matching
        stages = parity.run(_detector(), GoldenPack(arrays), MODEL)
        for stage, value in stages.items():
            if not stage.startswith(("lidar.vox", "train.grad", "assign")):
                arrays[f"{MODEL}/{stage}/full"] = value
                arrays[f"{MODEL}/{stage}/tol"] = np.array([1e-4, 0.0, 1e-4])
    image = stages["cam.depth_image"]
    arrays[f"{MODEL}/cam.depth_image/nz_pos"] = np.flatnonzero(image)
    arrays[f"{MODEL}/cam.depth_image/nz_val"] = image[image != 0]
    arrays[f"{MODEL}/train.grad_names"] = stages["train.grad_names"]
    arrays[f"{MODEL}/train.grad_norms/full"] = stages["train.grad_norms"]
    arrays[f"{MODEL}/train.grad_rtol"] = np.full(len(stages["train.grad_names"]), 2e-3)
    del arrays[f"{MODEL}/cam.depth_image/shape"]  # every value is there
    return arrays


def test_every_camera_stage_is_collected_and_judged(recorded: Arrays) -> None:
    stages = parity.run(_detector(), GoldenPack(recorded), MODEL)
    verdicts = {v.stage: v for v in Checker(GoldenPack(recorded), MODEL, stages).run()}
    assert all(v.ok for v in verdicts.values())
    assert set(CAMERA_STAGES) <= set(verdicts)
    assert {f"train.grad_norms{s} (error/rtol)" for s in ("", "_fused")} <= set(verdicts)
    assert stages["input.images"].shape == (3, 3, 32, 64)
    assert stages["cam.depth_softmax"].shape == (3, 29, 4, 8)
    for stage in CAMERA_STAGES:
        key = f"{MODEL}/{stage}/full"
        changed = GoldenPack(recorded | {key: recorded[key] + 1})
        failed = [
            v.stage for v in Checker(changed, MODEL, {stage: stages[stage]}).run() if not v.ok
        ]
        assert failed == [stage]


def test_an_injected_depth_image_takes_the_place_of_the_models_own(recorded: Arrays) -> None:
    pack = GoldenPack(recorded | {f"{MODEL}/cam.depth_image/shape": np.array([3, 1, 32, 64])})
    same = parity.run(_detector(), pack, MODEL, inject_depth_image=True)
    assert np.array_equal(same["cam.context"], recorded[f"{MODEL}/cam.context/full"])
    pack.arrays[f"{MODEL}/cam.depth_image/nz_val"] = pack.arrays[
        f"{MODEL}/cam.depth_image/nz_val"
    ] + np.float32(20)
    other = parity.run(_detector(), pack, MODEL, inject_depth_image=True)
    assert not np.allclose(other["cam.context"], same["cam.context"])
    with pytest.raises(ValueError, match=r"golden pack must hold lidar_cam/cam.depth_image/shape"):
        GoldenPack({}).depth_image(MODEL)


def test_fused_gradients_may_sway_as_the_widest_recorded_one(recorded: Arrays) -> None:
    names, norms = np.array(["a", "b"]), np.array([1.0, 2.0])
    pack = GoldenPack(
        {
            f"{MODEL}/train.grad_names": names,
            f"{MODEL}/train.grad_norms/full": norms,
            f"{MODEL}/train.grad_rtol": np.array([2e-3, 3e-2]),
        }
    )
    swayed = norms * np.array([1.02, 1.0])
    given = {"train.grad_names": names, "train.grad_norms": norms}
    fused = {"train.grad_names_fused": names, "train.grad_norms_fused": swayed}
    assert [v.ok for v in Checker(pack, MODEL, given | fused).run()] == [True, True]
    given["train.grad_norms"] = swayed
    assert [v.ok for v in Checker(pack, MODEL, given | fused).run()] == [False, True]


def test_strict_injects_the_depth_image_and_says_so(
    recorded: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tool = load_tool("parity.py")
    asked: list[object] = []

    def build(model: str, *, exact_geometry: bool = False) -> BEVFusion:
        asked.append((model, exact_geometry))
        config = tiny_camera_cfg()
        config["view_transform"]["exact_geometry"] = exact_geometry
        return build_detector(config)

    monkeypatch.setattr(tool, "build", build)
    arrays = recorded | {f"{MODEL}/cam.depth_image/shape": np.array([3, 1, 32, 64])}
    del arrays[f"{MODEL}/cam.depth_image/full"]
    for field in ("pos", "val"):
        arrays[f"{MODEL}/cam.depth_image/{field}"] = np.zeros(0, np.int64)
    arrays[f"{MODEL}/cam.depth_image/stats"] = np.full(4, np.inf)
    np.savez(tmp_path / "tiny.npz", **arrays)
    flags = ["--pack", str(tmp_path / "tiny.npz"), "--model", MODEL, "--seed", str(SEED)]
    assert tool.main([*flags, "--only", "cam.bev"]) == 0
    assert "injected" not in capsys.readouterr().out
    assert tool.main([*flags, "--only", "cam.bev", "--strict"]) == 0
    out = capsys.readouterr().out
    assert "injected: the recorded depth image; geometry computed in reference order" in out
    assert asked == [(MODEL, False), (MODEL, True)]


@pytest.fixture(scope="module")
def pack_a(test_data: Path) -> GoldenPack:
    return GoldenPack.load(test_data / "golden" / "pack_a.npz")


@pytest.fixture(scope="module")
def full_size(pack_a: GoldenPack) -> BEVFusion:
    detector = build_detector(Config.fromfile(Path(anybev.__file__).parent / CONFIG).model)
    parity.fill_model(detector, pack_a.seed)
    return detector.eval()


def _judge_first(pack: GoldenPack, stage: str, values: np.ndarray, strict: bool = True) -> None:
    """Hold the recorded values that lie in the first camera's part against ``values``."""
    name = f"{MODEL}/{stage}"
    position = pack.get(name, "pos")
    inside = position < values.size
    assert inside.sum() > 100
    error = values.ravel()[position[inside]] - pack.get(name, "val")[inside]
    verdict = judge(stage, error, 1.0, pack.get(name, "tol"), strict=strict)
    assert verdict.ok, verdict


@torch.no_grad()
def test_the_first_camera_at_full_size_equals_the_reference(
    pack_a: GoldenPack, full_size: BEVFusion
) -> None:
    batch = parity.batch_of(pack_a)
    cameras: CameraBatch = batch.cameras
    images = full_size.data_preprocessor.normalize(cameras.images[:, 0])
    pyramid = full_size.img_backbone(images)
    for index, level in enumerate(pyramid):
        _judge_first(pack_a, f"cam.swin{index}", level.numpy())
    features = full_size.img_neck(pyramid)[0]
    _judge_first(pack_a, "cam.neck0", features.numpy())
    view = full_size.view_transform
    image = view.depth_image(batch.points_lidar_m, cameras, batch.lidar_aug_matrix)[0]
    whole = judge("depth", image.numpy() - pack_a.depth_image(MODEL), 1.0, (1e-4, 2e-3, 100.0))
    assert whole.ok, whole
    injected = torch.from_numpy(pack_a.depth_image(MODEL)[:1])
    logits = view.depthnet(torch.cat([view.dtransform(injected), features], 1))
    _judge_first(pack_a, "cam.depth_softmax", logits[:, : view.depths].softmax(1).numpy())
    _judge_first(pack_a, "cam.context", logits[:, view.depths :].numpy())


@torch.no_grad()
@pytest.mark.parametrize("exact", [False, True])
def test_geometry_at_full_size_equals_the_reference(
    pack_a: GoldenPack, full_size: BEVFusion, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, view = parity.batch_of(pack_a), full_size.view_transform
    monkeypatch.setattr(view, "exact_geometry", exact)
    points = view.frustum_points_lidar_m(batch.cameras, batch.lidar_aug_matrix)
    name = f"{MODEL}/cam.geom"
    error = points.numpy().ravel()[pack_a.get(name, "pos")] - pack_a.get(name, "val")
    assert judge(name, error, 1.0, pack_a.get(name, "tol")).ok
    kept = int(view.cells(points)[1].sum())
    recorded = int(pack_a.get(f"{MODEL}/cam.geom_counts")[0])
    if exact:
        assert not error.any()
        assert kept == recorded
    assert abs(kept - recorded) <= 154
