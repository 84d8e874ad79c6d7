"""The whole detector with a camera branch, at a size for unit tests."""

from dataclasses import replace

import pytest
import torch

from anybev.engine.builder import build_detector
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.preprocessor import Det3DDataPreprocessor
from anybev.testing.tiny import MAP_SIZE, tiny_batch
from anybev.testing.tiny_cameras import tiny_camera_batch, tiny_camera_cfg

SENSORS = {
    "lidar and cameras": {},
    "cameras": {"lidar": False, "depth": False},
    "cameras with points": {"lidar": False},
    "no depth image": {"depth": False},
}


def _detector(**settings: bool) -> BEVFusion:
    torch.manual_seed(0)
    return build_detector(tiny_camera_cfg(**settings))


def _total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([v for k, v in losses.items() if "loss" in k]).sum()


@pytest.mark.parametrize("sensors", SENSORS)
def test_every_choice_of_sensors_trains_all_its_parameters(sensors: str) -> None:
    detector, batch = _detector(**SENSORS[sensors]), tiny_camera_batch()
    _total(detector.loss(batch)).backward()
    trained = [p for p in detector.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert detector.img_backbone.patch_embed.projection.weight.grad.any()
    found = detector.eval().predict(batch)
    assert all(f.boxes_lidar.isfinite().all() for f in found)


def test_steps_lower_the_loss() -> None:
    detector, batch = _detector(), tiny_camera_batch()
    optimizer = torch.optim.AdamW(detector.parameters(), 2e-3)
    totals = []
    for _ in range(4):
        totals.append(_total(detector.loss(batch)))
        totals[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert totals[-1] < 0.9 * totals[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_cameras(count: int) -> None:
    detector = _detector().eval()
    found = detector.predict(tiny_camera_batch((1, 0), count))
    assert len(found) == 2
    assert found[0].boxes_lidar.isfinite().all()


def test_any_classes_and_no_velocity() -> None:
    config = tiny_camera_cfg(velocity=False, num_classes=3)
    detector, batch = build_detector(config), tiny_camera_batch()
    batch = replace(batch, labels=[labels % 3 for labels in batch.labels])
    _total(detector.loss(batch)).backward()
    found = detector.eval().predict(batch)[0]
    assert found.boxes_lidar.shape[1] in (7, 9)
    assert found.labels.max() < 3


def test_predictions_of_a_sample_do_not_depend_on_its_company() -> None:
    detector, batch = _detector().eval(), tiny_camera_batch((1, 2))
    together = detector.predict(batch)[1]
    cameras = batch.cameras
    names = ("images", "cam2img", "lidar2img", "cam2lidar", "img_aug_matrix")
    alone = replace(
        batch,
        points_lidar_m=batch.points_lidar_m[1:],
        tokens=["one"],
        lidar_aug_matrix=batch.lidar_aug_matrix[1:],
        cameras=replace(cameras, **{name: getattr(cameras, name)[1:] for name in names}),
    )
    (found,) = detector.predict(alone)
    torch.testing.assert_close(found.boxes_lidar, together.boxes_lidar, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.labels, together.labels)


def test_pictures_change_the_result_of_fusion_and_not_of_lidar_alone() -> None:
    batch = tiny_camera_batch()
    dark = replace(batch, cameras=replace(batch.cameras, images=batch.cameras.images * 0))
    detector = _detector().eval()
    assert not torch.allclose(detector(batch)["center"], detector(dark)["center"])
    config = tiny_camera_cfg()
    for name in ("img_backbone", "img_neck", "view_transform", "fusion_layer"):
        config[name] = None
    lidar = build_detector(config).eval()
    assert torch.equal(lidar(batch)["center"], lidar(dark)["center"])


def test_cameras_lie_on_the_map_of_the_lidar() -> None:
    detector, batch = _detector().eval(), tiny_camera_batch()
    shapes = []
    for name in ("view_transform", "pts_middle_encoder", "fusion_layer"):
        module = detector.get_submodule(name)
        module.register_forward_hook(lambda _m, _in, out: shapes.append(tuple(out.shape)))
    detector(batch)
    assert shapes == [(2, 12, *MAP_SIZE), (2, 40, *MAP_SIZE), (2, 40, *MAP_SIZE)]


def test_autocast_keeps_the_islands_in_float32() -> None:
    detector, batch = _detector(), tiny_camera_batch()
    seen = {}
    for name in ("img_backbone", "img_neck", "view_transform", "fusion_layer"):
        module = detector.get_submodule(name)

        def note(_module: object, _given: object, out: object, name: str = name) -> None:
            seen[name] = (out[0] if isinstance(out, tuple) else out).dtype

        module.register_forward_hook(note)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = detector(batch)
        losses = detector.loss(batch)
    assert seen["img_neck"] == torch.bfloat16
    assert seen["view_transform"] == torch.float32
    assert seen["fusion_layer"] == torch.bfloat16
    assert outputs["dense_heatmap"].dtype == torch.float32
    assert all(v.dtype == torch.float32 for v in losses.values())
    _total(losses).backward()
    trained = [p for p in detector.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_pictures_that_do_not_fit_are_named() -> None:
    detector, batch = _detector(), tiny_camera_batch()
    message = "batch.cameras must hold pictures for the camera branch, got None; try BEVLoad"
    with pytest.raises(ValueError, match=message):
        detector(tiny_batch())
    small = replace(batch.cameras, images=batch.cameras.images[..., :40])
    message = r"images must be \(32, 64\) .*, got \(32, 40\); try ImageAug3D\(final_dim=\[32, 64\]"
    with pytest.raises(ValueError, match=message):
        detector(replace(batch, cameras=small))


def test_a_branch_must_be_whole() -> None:
    config = tiny_camera_cfg()
    with pytest.raises(ValueError, match=r"a camera branch must have .*, got img_backbone, view_"):
        build_detector(config | {"img_neck": None})
    with pytest.raises(ValueError, match="fusion_layer must join lidar and cameras, got None"):
        build_detector(config | {"fusion_layer": None})


def test_pictures_are_normalised_channel_by_channel() -> None:
    images = torch.randint(0, 256, (2, 3, 3, 4, 5), dtype=torch.uint8)
    mean, std = [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]
    normal = Det3DDataPreprocessor(mean=mean, std=std)
    with torch.autocast("cpu", torch.bfloat16):
        got = normal.normalize(images)
    assert got.dtype == torch.float32
    for channel in range(3):
        wanted = (images[:, :, channel].float() - mean[channel]) / std[channel]
        assert torch.equal(got[:, :, channel], wanted)
    reverse = Det3DDataPreprocessor(mean=mean, std=std, bgr_to_rgb=True)
    assert torch.equal(reverse.normalize(images), normal.normalize(images.flip(2)))
    assert torch.equal(Det3DDataPreprocessor().normalize(images), images.float())
    assert not normal.state_dict()


def test_preprocessor_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="mean and std must be given together, got one"):
        Det3DDataPreprocessor(mean=[1.0])
    with pytest.raises(ValueError, match="bgr_to_rgb and rgb_to_bgr must not both be True"):
        Det3DDataPreprocessor(bgr_to_rgb=True, rgb_to_bgr=True)
    with pytest.raises(ValueError, match="mean and std must be 1 or 3 numbers, std > 0, got"):
        Det3DDataPreprocessor(mean=[1.0, 2.0, 3.0], std=[1.0, 0.0, 1.0])
    with pytest.raises(RuntimeError, match="voxelize_cfg must be given, got none"):
        Det3DDataPreprocessor().voxelize([torch.zeros(1, 5)])
