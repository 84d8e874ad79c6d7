"""Targets that are made at once against upstream's loops over objects."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

Pair = Callable[[str], tuple[Callable[..., Any], Callable[..., Any]]]

NAMES = [["car"], ["truck", "van"], ["bus", "tram"], ["barrier"]]


def _boxes(count: int, rng: torch.Generator, spread: float = 60.0) -> Tensor:
    """Random boxes, a part of them outside the map, some of no size, some in one place."""
    boxes = torch.rand(count, 9, generator=rng)
    boxes[:, :2] = (boxes[:, :2] - 0.5) * spread * 2
    boxes[:, 3:6] = boxes[:, 3:6] * 12 + 0.1
    boxes[:, 6:] = (boxes[:, 6:] - 0.5) * 6
    boxes[1::7, 3] = 0.0
    boxes[2::9, 4] = -1.0
    if count > 5:
        boxes[5, :2] = boxes[0, :2]
    return boxes


def _instances(boxes: Tensor, labels: Tensor) -> Any:
    from mmdet3d.structures import LiDARInstance3DBoxes

    return SimpleNamespace(
        bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1]), labels_3d=labels
    )


def _head(**changes: Any) -> Any:
    config = {
        "grid_size": [1024, 800, 40],
        "voxel_size": [0.1, 0.13, 0.2],
        "out_size_factor": 8,
        "dense_reg": 1,
        "gaussian_overlap": 0.1,
        "max_objs": 500,
        "min_radius": 2,
        "point_cloud_range": [-51.2, -52.0, -5.0, 51.2, 52.0, 3.0],
    }
    return SimpleNamespace(
        train_cfg=config | changes.pop("train_cfg", {}),
        class_names=NAMES,
        task_heads=NAMES,
        norm_bbox=True,
        **changes,
    )


def _same_center_targets(pair: Pair, head: Any, boxes: Tensor, labels: Tensor) -> None:
    original, replacement = pair("mmdet3d-center-targets")
    expected = original(head, _instances(boxes, labels))
    actual = replacement(head, _instances(boxes, labels))
    for kind, (lists, others) in enumerate(zip(expected, actual, strict=True)):
        for a, b in zip(lists, others, strict=True):
            assert a.dtype == b.dtype
            if kind == 1:
                torch.testing.assert_close(b, a, rtol=2e-7, atol=0)
            else:
                assert torch.equal(a, b)


@pytest.mark.parametrize("count", [0, 1, 6, 80])
@pytest.mark.parametrize("seed", range(3))
def test_center_targets_are_upstreams(pair: Pair, count: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 7, (count,), generator=rng)
    _same_center_targets(pair, _head(), _boxes(count, rng), labels)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_objs": 7},
        {"out_size_factor": 3, "gaussian_overlap": 0.7},
        {"min_radius": 0, "voxel_size": [0.05, 0.05, 0.1]},
    ],
)
def test_center_targets_are_upstreams_with_other_settings(
    pair: Pair, changes: dict[str, Any]
) -> None:
    rng = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 6, (50,), generator=rng)
    _same_center_targets(pair, _head(train_cfg=changes), _boxes(50, rng), labels)


def test_center_targets_on_cell_borders_are_upstreams(pair: Pair) -> None:
    rng = torch.Generator().manual_seed(6)
    boxes = _boxes(200, rng)
    boxes[:, 0] = torch.arange(200) * 0.8 - 51.2
    boxes[:, 1] = torch.arange(200) * 1.04 - 52.0 - 1e-6
    boxes[3, 0], boxes[4, 1] = -51.9, -52.9  # less than one cell below: cell 0
    _same_center_targets(pair, _head(), boxes, torch.randint(0, 6, (200,), generator=rng))


def test_center_targets_of_boxes_without_velocity_are_upstreams_error(pair: Pair) -> None:
    original, replacement = pair("mmdet3d-center-targets")
    boxes = _boxes(4, torch.Generator().manual_seed(0))[:, :7] * torch.tensor([0.1, 0.1, *[1] * 5])
    for function in (original, replacement):
        with pytest.raises(ValueError, match="not enough values to unpack"):
            function(_head(), _instances(boxes, torch.zeros(4, dtype=torch.long)))


def test_gaussian_radius_is_upstreams(pair: Pair) -> None:
    original, replacement = pair("mmdet3d-gaussian-radius")
    sizes = torch.rand(300, 2, generator=torch.Generator().manual_seed(1)) * 40
    for overlap in (0.1, 0.5, 0.7):
        expected = torch.stack([original((h, w), overlap) for h, w in sizes])
        assert torch.equal(replacement((sizes[:, 0], sizes[:, 1]), overlap), expected)
    assert replacement((sizes[0, 0], sizes[0, 1])) == original((sizes[0, 0], sizes[0, 1]))


def _assigner(**changes: Any) -> Any:
    fields = {
        "pos_iou_thr": 0.6,
        "neg_iou_thr": 0.45,
        "min_pos_iou": 0.45,
        "match_low_quality": True,
        "gt_max_assign_all": True,
    }
    return SimpleNamespace(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gt_max_assign_all": False},
        {"neg_iou_thr": (0.1, 0.45)},
        {"match_low_quality": False},
        {"min_pos_iou": 0.0},
        {"pos_iou_thr": 0.9, "min_pos_iou": 0.8},
    ],
)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 40), (30, 400)])
def test_assignment_is_upstreams(pair: Pair, shape: tuple[int, int], changes: dict) -> None:
    original, replacement = pair("mmdet-max-iou-assigner")
    rng = torch.Generator().manual_seed(shape[0])
    # Few distinct values: many ties, between priors and between objects.
    overlaps = (torch.rand(shape, generator=rng) * 12).round() / 12
    overlaps[:, ::3] = -1.0  # as of priors in ignored regions
    labels = torch.randint(0, 3, shape[:1], generator=rng)
    expected = original(_assigner(**changes), overlaps, labels)
    actual = replacement(_assigner(**changes), overlaps, labels)
    assert actual.num_gts == expected.num_gts
    for name in ("gt_inds", "max_overlaps", "labels"):
        assert getattr(actual, name).dtype == getattr(expected, name).dtype
        assert torch.equal(getattr(actual, name), getattr(expected, name))
