"""mmcv._ext: quadrilaterals, against shapely where they are rectangles."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.patches.ext import boxes_quadri
from anybev.patches.ext.boxes_quadri import box_iou_quadri, nms_quadri

shapely = pytest.importorskip("shapely", reason="shapely comes with nuscenes-devkit")

# Overlaps that mmcv's own tests expect of quadrilaterals that are no rectangles.
FIRST = torch.tensor(
    [[1.0, 1, 3, 4, 4, 4, 4, 1], [2, 2, 3, 4, 4, 2, 3, 1], [7, 7, 8, 8, 9, 7, 8, 6]]
)
SECOND = torch.tensor(
    [[0.0, 0, 0, 2, 2, 2, 2, 0], [2, 1, 2, 4, 4, 4, 4, 1], [7, 6, 7, 8, 9, 8, 9, 6]]
)
OVERLAP = torch.tensor([[1 / 14, 1, 0], [0, 0.5, 0], [0, 0, 0.5]])


def rectangles(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(count, generator=generator) * 7
    size = torch.rand(count, 2, generator=generator) * 4 + 0.5
    local = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size[:, None]
    x = local[..., 0] * angle.cos()[:, None] - local[..., 1] * angle.sin()[:, None]
    y = local[..., 0] * angle.sin()[:, None] + local[..., 1] * angle.cos()[:, None]
    centre = torch.rand(count, 1, 2, generator=generator) * 6 + 40
    return (torch.stack([x, y], 2) + centre).reshape(count, 8)


def by_shapely(a: Tensor, b: Tensor, mode_flag: int) -> Tensor:
    first, second = (
        [shapely.Polygon(row) for row in boxes.double().reshape(-1, 4, 2).numpy()]
        for boxes in (a, b)
    )

    def over(p: Any, q: Any) -> float:
        return float(p.area if mode_flag else p.union(q).area)

    return torch.tensor([[p.intersection(q).area / over(p, q) for q in second] for p in first])


@pytest.mark.parametrize("at_once", [1 << 15, 7])
@pytest.mark.parametrize("mode_flag", [0, 1])
def test_overlaps_of_rectangles(
    mode_flag: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes_quadri, "_PAIRS_AT_ONCE", at_once)
    monkeypatch.setattr(boxes_quadri, "_TESTS_AT_ONCE", 4 * at_once)
    a, b = rectangles(12, 0), rectangles(12, 1)
    b[:4] = a[:4].reshape(4, 4, 2).flip(1).roll(1, 1).reshape(4, 8)  # the same, the other way round
    expected = by_shapely(a, b, mode_flag)
    ious = torch.full((12, 12), -1.0)
    box_iou_quadri(a, b, ious, mode_flag=mode_flag, aligned=False)
    torch.testing.assert_close(ious, expected, rtol=1e-4, atol=1e-5)
    aligned = torch.full((12,), -1.0)
    box_iou_quadri(a, b, aligned, mode_flag=mode_flag, aligned=True)
    torch.testing.assert_close(aligned, expected.diagonal(), rtol=1e-4, atol=1e-5)


def test_overlaps_of_others_are_those_of_upstream() -> None:
    ious = torch.full((9,), -1.0)
    box_iou_quadri(FIRST, SECOND, ious, 0, aligned=False)
    torch.testing.assert_close(ious.reshape(3, 3), OVERLAP)


def test_overlap_needs_an_area() -> None:
    flat = torch.tensor([[0.0, 0, 1, 0, 1, 0, 0, 0]])
    ious = torch.full((1, 1), -1.0)
    for mode_flag in (0, 1):
        box_iou_quadri(flat, SECOND[:1], ious, mode_flag, aligned=False)
        assert ious.item() == 0


def test_no_quadrilaterals() -> None:
    none = torch.zeros(0, 8)
    box_iou_quadri(none, SECOND, torch.zeros(0, 3), 0, aligned=False)
    box_iou_quadri(FIRST, none, torch.zeros(3, 0), 0, aligned=False)
    box_iou_quadri(none, none, torch.zeros(0), 0, aligned=True)
    assert nms_quadri(none, none[:, 0], none[:, 0], none, 0.5, 0).tolist() == []


def test_nms_keeps_what_a_loop_keeps() -> None:
    boxes = rectangles(40, 2)
    scores = torch.rand(40, generator=torch.Generator().manual_seed(3))
    overlap = by_shapely(boxes, boxes, 0)
    expected: list[int] = []
    for i in torch.argsort(scores, descending=True).tolist():
        if all(overlap[k, i] <= 0.2 for k in expected):
            expected.append(i)
    found = nms_quadri(boxes, scores, scores, boxes, 0.2, 0)
    assert found.tolist() == expected
    assert 1 < len(expected) < 40


def test_host_nms_quadri(host: Any) -> None:
    from mmcv.ops import batched_nms, box_iou_quadri, nms_quadri

    boxes = torch.cat([FIRST, SECOND[:1]])
    scores, labels = torch.tensor([0.7, 0.8, 0.5, 0.9]), torch.tensor([1.0, 0, 1, 0])
    dets, index = nms_quadri(boxes, scores, 0.3)
    assert index.tolist() == [3, 1, 2]
    assert dets.shape == (3, 9)
    assert nms_quadri(boxes, scores, 0.3, labels)[1].tolist() == [3, 1, 2]
    settings = {"type": "nms_quadri", "iou_threshold": 0.3}
    assert batched_nms(boxes, scores, labels, settings)[1].tolist() == [3, 1, 0, 2]
    assert math.isclose(box_iou_quadri(boxes, boxes)[0, 0], 1, rel_tol=1e-5)
