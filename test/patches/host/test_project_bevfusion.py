"""projects/BEVFusion of a user's checkout: mixed precision and targets, patched and not."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev import envs, patches
from anybev.patches import targets
from anybev.patches.ledger import Entry

Function = Callable[..., Any]
Pair = Callable[[str], tuple[Function, Function]]


@pytest.fixture(scope="module")
def project(host: list[patches.Outcome]) -> Iterator[Path]:
    """The checkout, projects/BEVFusion imported from it; skips where none is named."""
    folder = envs.mmdet3d_source()
    if folder is None:
        pytest.skip("no checkout of mmdetection3d: set ANYBEV_MMDET3D_SRC to one")
    sys.path.append(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        __import__("projects.BEVFusion.bevfusion")
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def pair(project: Path, entries: dict[str, Entry]) -> Pair:
    """By id: the checkout's function and the patched one; both find the operators of mmcv."""

    def make(patch: str) -> tuple[Function, Function]:
        patches.undo()
        try:
            original = targets.find(entries[patch]).function
        finally:
            patches.apply()
        return original, targets.factory(entries[patch])(original)

    return make


def test_modules_of_the_checkout_are_patched_when_imported(project: Path) -> None:
    states = {o.entry.id: o.state for o in patches.apply() if o.entry.package == "projects"}
    for name in ("lidar-autocast", "camera-autocast", "head-autocast", "targets"):
        assert states[f"projects-bevfusion-{name}"] is patches.State.ALREADY


def test_points_are_voxelized_in_float32(pair: Pair) -> None:
    original, replacement = pair("projects-bevfusion-lidar-autocast")
    seen: list[tuple[torch.dtype, bool]] = []

    def voxelize(points: list[Tensor]) -> tuple[Tensor, Tensor, None]:
        seen.append((points[0].dtype, torch.is_autocast_enabled("cpu")))
        return points[0], torch.tensor([[0, 1, 2, 3], [1, 1, 2, 3]]), None

    model = SimpleNamespace(voxelize=voxelize, pts_middle_encoder=lambda *given: given)
    batch = {"points": [torch.rand(4, 5, dtype=torch.float16)]}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = [function(model, batch) for function in (original, replacement)]
    assert seen == [(torch.float32, True), (torch.float32, False)]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def _camera_model(calls: list[Any]) -> Any:
    def view_transform(x: Tensor, *rest: Any) -> Tensor:
        calls.append((x.dtype, torch.is_autocast_enabled("cpu"), rest))
        return x * 2

    return SimpleNamespace(
        img_backbone=torch.nn.Conv2d(3, 4, 3),
        img_neck=lambda x: (x, None),
        view_transform=view_transform,
    )


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_cameras_are_lifted_in_float32(pair: Pair) -> None:
    original, replacement = pair("projects-bevfusion-camera-autocast")
    calls: list[Any] = []
    model, pictures = _camera_model(calls), torch.rand(2, 3, 3, 8, 10)
    rest = ("points", 1, 2, 3, 4, 5, "metas")
    assert torch.equal(
        original(model, pictures, *rest).detach(), replacement(model, pictures, *rest).detach()
    )
    assert calls[0] == calls[1] == (torch.float32, False, rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lifted = replacement(model, pictures, *rest)
        original(model, pictures, *rest)
    assert lifted.shape == (2, 3, 4, 6, 8)
    assert calls[2][:2] == (torch.float32, False)
    assert calls[3][0] is torch.bfloat16  # which float32 weights then refuse


@pytest.fixture(scope="module")
def head(project: Path) -> Any:
    """The project's head on a map of 16 x 16 cells."""
    from mmdet3d.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    file = "bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    config = Config.fromfile(project / "projects/BEVFusion/configs" / file)
    changes = {
        "num_proposals": 20,
        "in_channels": 8,
        "train_cfg.grid_size": [128, 128, 41],
        "test_cfg.grid_size": [128, 128, 41],
        "train_cfg.voxel_size": [0.84375, 0.84375, 0.2],
        "bbox_coder.voxel_size": [0.84375, 0.84375],
    }
    config.merge_from_dict({f"model.bbox_head.{k}": v for k, v in changes.items()})
    torch.manual_seed(0)
    with warnings.catch_warnings(), DefaultScope.overwrite_default_scope("mmdet3d"):
        warnings.simplefilter("ignore")
        return MODELS.build(config.model.bbox_head).eval()


def test_heatmap_is_computed_in_float32(pair: Pair, head: Any) -> None:
    original, replacement = pair("projects-bevfusion-head-autocast")
    inputs = torch.rand(2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = (f(head, inputs, None)[0] for f in (original, replacement))
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            assert torch.equal(actual[name], value)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            dtypes = [
                f(head, inputs, None)[0]["dense_heatmap"].dtype for f in (original, replacement)
            ]
    assert dtypes == [torch.bfloat16, torch.float32]


def _given(count: int, seed: int) -> Any:
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    rng = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 9, generator=rng)
    boxes[:, :2] = (boxes[:, :2] - 0.5) * 120  # some outside of the map
    boxes[:, 3:6] = boxes[:, 3:6] * 10 + 0.2
    boxes[:, 6:] = (boxes[:, 6:] - 0.5) * 6
    return InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9),
        labels_3d=torch.randint(0, 10, (count,), generator=rng),
    )


def _predicted(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    sizes = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "heatmap": 10}
    made = {name: torch.randn(1, size, 20, generator=rng) for name, size in sizes.items()}
    made["center"] = made["center"] * 4 + 8
    return made


@pytest.mark.parametrize("count", [1, 3, 40])
def test_targets_are_the_checkouts(pair: Pair, head: Any, count: int) -> None:
    original, replacement = pair("projects-bevfusion-targets")
    predicted = _predicted(count)
    before = {name: value.clone() for name, value in predicted.items()}
    expected = original(head, _given(count, 1), predicted, 0)
    actual = replacement(head, _given(count, 1), predicted, 0)
    assert expected[5] > 0
    for a, b in zip(expected, actual, strict=True):
        assert type(a) is type(b)
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        else:
            assert a == b
    for name, value in before.items():
        assert torch.equal(predicted[name], value)


def test_targets_of_a_sample_without_objects(pair: Pair, head: Any) -> None:
    original, replacement = pair("projects-bevfusion-targets")
    with pytest.raises(TypeError, match="NoneType"):
        original(head, _given(0, 1), _predicted(0), 0)
    labels, label_weights, targets_, weights, ious, positive, iou, heatmap = replacement(
        head, _given(0, 1), _predicted(0), 0
    )
    assert (labels == head.num_classes).all()
    assert (label_weights == 1).all()
    for made in (targets_, weights, ious, heatmap):
        assert not made.any()
    assert (positive, iou) == (0, 0.0)
