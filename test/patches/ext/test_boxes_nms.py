"""mmcv._ext: suppression, against loops over boxes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.patches.ext import _greedy
from anybev.patches.ext.boxes_nms import (
    iou3d_nms3d_forward,
    iou3d_nms3d_normal_forward,
    nms,
    nms_match,
    nms_rotated,
    softnms,
)
from anybev.patches.ext.boxes_rotated import box_iou_rotated

Box = list[float]


@pytest.fixture(params=[256, 7])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes settled at once: all of the tests' boxes, and few of them."""
    monkeypatch.setattr(_greedy, "_BLOCK", request.param)


def iou(a: Box, b: Box, offset: int = 0) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    union = area_a + area_b - width * height
    return width * height / union if union else math.nan


def kept(order: list[int], suppresses: Callable[[int, int], bool]) -> list[int]:
    chosen: list[int] = []
    for i in order:
        if not any(suppresses(k, i) for k in chosen):
            chosen.append(i)
    return chosen


def random_boxes(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes on a grid of quarters, so that sums are exact, and scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 60, (count, 2), generator=generator) / 4
    size = torch.randint(0, 30, (count, 2), generator=generator) / 4
    scores = torch.randint(0, 12, (count,), generator=generator) / 12
    return torch.cat([corner, corner + size], 1), scores


def by_score(scores: Tensor) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_keeps_what_a_loop_keeps(threshold: float, offset: int) -> None:
    boxes, scores = random_boxes(90)
    rows = boxes.tolist()
    expected = kept(by_score(scores), lambda k, i: iou(rows[k], rows[i], offset) > threshold)
    found = nms(boxes, scores, iou_threshold=threshold, offset=offset)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_nms_spares_an_iou_equal_to_the_threshold_and_match_does_not() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 4]])
    scores = torch.tensor([0.5, 0.4])
    assert nms(boxes, scores, 0.5, 0).tolist() == [0, 1]
    assert nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5) == [[0, 1]]


def test_no_boxes() -> None:
    none = torch.zeros(0)
    assert nms(none.reshape(0, 4), none, 0.5, 0).tolist() == []
    assert softnms(none.reshape(0, 4), none, none.reshape(0, 5), 0.3, 0.5, 0.1, 1, 0).tolist() == []
    assert nms_match(none.reshape(0, 5), 0.5) == []
    keep, count = torch.zeros(0, dtype=torch.int64), torch.ones((), dtype=torch.int64)
    for suppress in (iou3d_nms3d_forward, iou3d_nms3d_normal_forward):
        suppress(none.reshape(0, 7), keep, count, nms_overlap_thresh=0.5)
        assert count.item() == 0


@pytest.mark.usefixtures("block")
def test_match_groups_what_a_loop_groups() -> None:
    boxes, scores = random_boxes(60, seed=1)
    rows, left, expected = boxes.tolist(), by_score(scores), []
    while left:
        best = left[0]
        expected.append([best, *(i for i in left[1:] if iou(rows[best], rows[i]) >= 0.3)])
        left = [i for i in left if i not in expected[-1]]
    assert nms_match(torch.cat([boxes, scores[:, None]], 1), iou_threshold=0.3) == expected


def soft_by_hand(
    boxes: Tensor, scores: Tensor, threshold: float, sigma: float, least: float, method: str
) -> list[tuple[int, float]]:
    """Taken boxes and their scores; positions change as mmcv's, by swaps."""
    entries = [
        [i, s, row] for i, (s, row) in enumerate(zip(scores.tolist(), boxes.tolist(), strict=True))
    ]
    taken = 0
    while taken < len(entries):
        best = max(range(taken, len(entries)), key=lambda p: (entries[p][1], -p))
        entries[taken], entries[best] = entries[best], entries[taken]
        at = taken + 1
        while at < len(entries):
            shared = iou(entries[taken][2], entries[at][2])
            if method == "gaussian":
                entries[at][1] *= math.exp(-(shared**2) / sigma)
            elif shared >= threshold:
                entries[at][1] *= 0 if method == "naive" else 1 - shared
            if entries[at][1] < least:
                entries[at] = entries[-1]
                entries.pop()
            else:
                at += 1
        taken += 1
    return [(index, score) for index, score, _ in entries]


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_lowers_scores_as_a_loop_does(method: str) -> None:
    boxes, scores = random_boxes(60, seed=2)
    boxes[:, 2:] += 0.25  # no box without an area
    number = ["naive", "linear", "gaussian"].index(method)
    dets = torch.full((60, 5), -1.0)
    index = softnms(
        boxes, scores, dets, iou_threshold=0.3, sigma=0.5, min_score=0.05, method=number, offset=0
    )
    expected = soft_by_hand(boxes.double(), scores.double(), 0.3, 0.5, 0.05, method)
    assert index.tolist() == [i for i, _ in expected]
    assert index.numel() < 60
    torch.testing.assert_close(dets[: index.numel(), :4], boxes[index])
    torch.testing.assert_close(dets[: index.numel(), 4], torch.tensor([s for _, s in expected]))
    assert (dets[index.numel() :] == -1).all()


def rotated_boxes(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    boxes = torch.rand(count, 5, generator=generator) * torch.tensor([9.0, 9, 5, 3, 7])
    return boxes + torch.tensor([50.0, -30, 0.5, 0.5, -3]), torch.rand(count, generator=generator)


@pytest.mark.parametrize("with_labels", [False, True])
def test_rotated_nms_keeps_what_a_loop_keeps_of_all_labels(with_labels: bool) -> None:
    boxes, scores = rotated_boxes(70)
    overlap = torch.zeros(70, 70)
    box_iou_rotated(boxes, boxes, overlap, 0, aligned=False)
    labels = torch.arange(70.0) % 3 if with_labels else torch.zeros(0)
    dets = torch.cat([boxes, labels[:, None]], 1) if with_labels else boxes
    order = torch.argsort(scores, descending=True)
    found = nms_rotated(dets, scores, order, dets[order], labels, 0.2, int(with_labels))
    expected = kept(by_score(scores), lambda k, i: float(overlap[k, i]) > 0.2)
    assert found.tolist() == expected
    assert len(expected) < 70


def test_rotated_nms_with_thresholds_that_no_overlap_has() -> None:
    boxes, scores = rotated_boxes(5)
    none = torch.zeros(0)
    everything = nms_rotated(boxes, scores, none, boxes, none, 1.5, 0)
    assert everything.tolist() == by_score(scores)
    assert nms_rotated(boxes, scores, none, boxes, none, -0.1, 0).tolist() == by_score(scores)[:1]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("suppress", [iou3d_nms3d_forward, iou3d_nms3d_normal_forward])
def test_nms3d_fills_its_buffers(suppress: Callable[..., None]) -> None:
    flat, _ = rotated_boxes(70)
    turned = suppress is iou3d_nms3d_forward
    boxes = torch.cat(
        [flat[:, :2], torch.rand(70, 1) * 90, flat[:, 2:4], flat[:, :1], flat[:, 4:]], 1
    )
    overlap = torch.zeros(70, 70)
    seen = flat * torch.tensor([1.0, 1, 1, 1, float(turned)])
    box_iou_rotated(seen, seen, overlap, 0, aligned=False)
    keep = torch.full((70,), -1, dtype=torch.int64)
    count = torch.zeros((), dtype=torch.int64)
    suppress(boxes, keep, count, nms_overlap_thresh=0.2)
    expected = kept(list(range(70)), lambda k, i: float(overlap[k, i]) > 0.2)
    assert keep[: int(count)].tolist() == expected
    assert (keep[int(count) :] == -1).all()


def test_host_nms_examples(host: Any) -> None:
    import numpy as np
    from mmcv.ops import nms as of_mmcv
    from mmcv.ops import soft_nms

    boxes = np.array(
        [
            [49.1, 32.4, 51.0, 35.9],
            [49.3, 32.9, 51.0, 35.3],
            [49.2, 31.8, 51.0, 35.4],
            [35.1, 11.5, 39.1, 15.7],
            [35.6, 11.8, 39.3, 14.2],
            [35.3, 11.5, 39.9, 14.5],
            [35.2, 11.7, 39.7, 15.7],
        ],
        dtype=np.float32,
    )
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.5, 0.4, 0.3], dtype=np.float32)
    dets, index = of_mmcv(boxes, scores, 0.6)
    assert len(dets) == len(index) == 3
    _, index = of_mmcv(torch.from_numpy(boxes), torch.from_numpy(scores), 0.6, score_threshold=0.45)
    assert index.tolist() == [0, 3, 4]
    thin = np.array([[4.0, 3, 5, 3], [4, 3, 5, 4], *[[3, 1, 3, 1]] * 4], dtype=np.float32)
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.4, 0.0], dtype=np.float32)
    dets, index = soft_nms(thin, scores, 0.6, sigma=0.5)
    assert len(dets) == len(index) == 5


def test_host_batched_nms_keeps_classes_apart(host: Any) -> None:
    from mmcv.ops import batched_nms

    rotated = torch.tensor(
        [[6.0, 3, 8, 7, 0.5], [3, 6, 9, 11, 0.6], [3, 7, 10, 12, 0.3], [1, 4, 13, 7, 0.6]]
    )
    scores, labels = torch.tensor([0.7, 0.8, 0.5, 0.9]), torch.tensor([1.0, 0, 1, 0])
    settings = {"type": "nms_rotated", "iou_threshold": 0.5}
    assert batched_nms(rotated, scores, labels, settings)[1].tolist() == [3, 1, 0, 2]
    agnostic = batched_nms(rotated, scores, labels, settings, class_agnostic=True)
    assert agnostic[1].tolist() == [3, 1, 0]


def test_host_nms_rotated_both_ways_round(host: Any) -> None:
    from mmcv.ops import nms_rotated as of_mmcv

    boxes, scores = rotated_boxes(40)
    dets, index = of_mmcv(boxes, scores, 0.2)
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[index])
    turned = boxes * torch.tensor([1.0, 1, 1, 1, -1])
    assert torch.equal(of_mmcv(turned, scores, 0.2, clockwise=False)[1], index)
    labels = torch.arange(40.0) % 2
    assert torch.equal(of_mmcv(boxes, scores, 0.2, labels=labels)[1], index)


def test_host_nms3d(host: Any) -> None:
    from mmcv.ops import nms3d, nms3d_normal

    boxes = torch.tensor(
        [
            [1.0, 1, 1, 2, 2, 2, 0],
            [2, 2, 2, 2, 2, 2, 0],
            [3, 3, 3, 3, 2, 2, 0.3],
            [3, 3, 3, 3, 2, 2, 0],
            [3, 3.2, 3.2, 3, 2, 2, 0.3],
        ]
    )
    scores = torch.tensor([0.6, 0.9, 0.1, 0.2, 0.15])
    assert nms3d(boxes, scores, iou_threshold=0.3).tolist() == [1, 0, 3]
    assert nms3d_normal(boxes, scores, iou_threshold=0.3).tolist() == [1, 0, 3]
