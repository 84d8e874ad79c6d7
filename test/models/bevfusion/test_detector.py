"""The whole detector at a size for unit tests."""

import inspect
from dataclasses import replace

import pytest
import torch

from anybev.datasets.sample import Batch
from anybev.device.ops._contract import CONTRACTS
from anybev.engine.builder import build_detector
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.preprocessor import HardSimpleVFE, VoxelLayer
from anybev.testing.tiny import POINT_CLOUD_RANGE, tiny_batch, tiny_model_cfg
from anybev.testing.tolerances import tolerances


@pytest.fixture
def detector() -> BEVFusion:
    torch.manual_seed(0)
    return build_detector(tiny_model_cfg())


def _total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([v for k, v in losses.items() if "loss" in k]).sum()


def test_one_step_lowers_the_loss(detector: BEVFusion) -> None:
    batch = tiny_batch()
    optimizer = torch.optim.AdamW(detector.parameters(), 1e-3)
    first = _total(detector.loss(batch))
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    for _ in range(5):
        optimizer.step()
        optimizer.zero_grad()
        last = _total(detector.loss(batch))
        last.backward()
    assert last < 0.9 * first


def test_predictions_of_a_sample_do_not_depend_on_its_company(detector: BEVFusion) -> None:
    detector.eval()
    batch = tiny_batch((1, 2, 0))
    together = detector.predict(batch)
    assert len(together) == 3
    alone = detector.predict(
        replace(batch, points_lidar_m=batch.points_lidar_m[1:2], tokens=["one"])
    )
    torch.testing.assert_close(alone[0].boxes_lidar, together[1].boxes_lidar, rtol=1e-4, atol=1e-4)
    assert torch.equal(alone[0].labels, together[1].labels)


@pytest.mark.parametrize("which", ["no points", "all out of range", "last sample empty"])
def test_samples_without_voxels_train_and_predict(detector: BEVFusion, which: str) -> None:
    batch = tiny_batch((2, 0))
    clouds = list(batch.points_lidar_m)
    if which == "no points":
        clouds = [cloud[:0] for cloud in clouds]
    elif which == "all out of range":
        clouds = [cloud + 1000 for cloud in clouds]
    else:
        clouds[-1] = clouds[-1][:0]
    batch = replace(batch, points_lidar_m=clouds)
    _total(detector.loss(batch)).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
    assert all(b.isfinite().all() for b in detector.state_dict().values())
    found = detector.eval().predict(batch)
    assert len(found) == 2
    assert all(f.boxes_lidar.isfinite().all() for f in found)


@pytest.mark.parametrize("boxes", [(0, 0), (15, 1)])
def test_no_boxes_and_more_boxes_than_queries(detector: BEVFusion, boxes: tuple[int, int]) -> None:
    losses = detector.loss(tiny_batch(boxes))
    assert _total(losses).isfinite()
    if not any(boxes):
        assert losses["layer_-1_loss_bbox"] == 0
        assert losses["matched_ious"] == 0


def test_autocast_keeps_voxels_heatmap_and_losses_in_float32(detector: BEVFusion) -> None:
    batch = tiny_batch()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = detector(batch)
        losses = detector.loss(batch)
    assert outputs["dense_heatmap"].dtype == torch.float32
    assert outputs["height"].dtype == torch.bfloat16
    assert all(v.dtype == torch.float32 for v in losses.values())
    _total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    exact = detector.loss(batch)
    assert abs(_total(losses) - _total(exact)) < 0.1 * _total(exact)


def test_compiled_kernels_and_references_give_the_same_losses(
    detector: BEVFusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = tiny_batch()
    detector.eval()
    wanted = detector.loss(batch)
    monkeypatch.setenv("ANYBEV_OPS", ",".join(f"{name}=reference" for name in CONTRACTS))
    for name, value in detector.loss(batch).items():
        torch.testing.assert_close(value, wanted[name], **tolerances(torch.float32))


def test_training_and_evaluation_cap_voxels_apart() -> None:
    layer = VoxelLayer(10, POINT_CLOUD_RANGE, [0.5, 0.5, 0.2], [7, 9])
    points = tiny_batch().points_lidar_m
    features, coords = layer(points)
    assert features.shape == (14, 5)
    assert coords[:, 0].tolist() == [0] * 7 + [1] * 7
    assert coords.dtype == torch.int32
    assert len(layer.eval()(points)[0]) == 18


def test_forward_names_its_stages_in_under_60_lines() -> None:
    assert len(inspect.getsource(BEVFusion.forward).splitlines()) < 60


def test_rejects_what_it_cannot_do(detector: BEVFusion) -> None:
    names = ("data_preprocessor", "pts_backbone", "pts_neck", "bbox_head")
    parts = {name: detector.get_submodule(name) for name in names}
    with pytest.raises(ValueError, match="a camera branch must have img_backbone, img_neck, view"):
        BEVFusion(**parts, img_neck=torch.nn.Identity())
    with pytest.raises(ValueError, match="pts_middle_encoder or a camera branch must be given"):
        BEVFusion(**parts)
    with pytest.raises(ValueError, match="voxelize_reduce must be True, got False"):
        VoxelLayer(10, POINT_CLOUD_RANGE, [0.5, 0.5, 0.2], 9, voxelize_reduce=False)
    with pytest.raises(ValueError, match=r"max_voxels must be one number or two, got \[1, 2, 3\]"):
        VoxelLayer(10, POINT_CLOUD_RANGE, [0.5, 0.5, 0.2], [1, 2, 3])
    with pytest.raises(ValueError, match="points must have at least 5 features, got 4"):
        HardSimpleVFE(5)(torch.zeros(2, 4))


def test_batches_travel_to_the_models_device(detector: BEVFusion, device: torch.device) -> None:
    batch: Batch = tiny_batch().to(device)
    assert _total(detector.to(device).loss(batch)).isfinite()
