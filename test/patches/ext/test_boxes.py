"""mmcv._ext: boxes along the axes and distances of point sets, pair by pair."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.patches.ext.boxes import (
    bbox_overlaps,
    chamfer_distance_backward,
    chamfer_distance_forward,
)

Box = list[float]


def overlap(a: Box, b: Box, mode: int, offset: int) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    over = area_a + area_b - width * height if mode == 0 else area_a
    return width * height / over


def random_boxes(count: int, seed: int) -> Tensor:
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 30
    size = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1)) * 20
    return torch.cat([corner, corner + size], 1)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", [0, 1])
def test_overlaps_of_all_pairs(mode: int, offset: int) -> None:
    a, b = random_boxes(7, 0), random_boxes(5, 2)
    ious = torch.full((7, 5), -1.0)
    bbox_overlaps(a, b, ious, mode=mode, aligned=False, offset=offset)
    expected = [[overlap(p, q, mode, offset) for q in b.tolist()] for p in a.tolist()]
    torch.testing.assert_close(ious, torch.tensor(expected))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", [0, 1])
def test_overlaps_of_aligned_boxes(mode: int, offset: int) -> None:
    a, b = random_boxes(9, 0), random_boxes(9, 2)
    ious = torch.full((9,), -1.0)
    bbox_overlaps(a, b, ious, mode=mode, aligned=True, offset=offset)
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    torch.testing.assert_close(ious, torch.tensor([overlap(p, q, mode, offset) for p, q in pairs]))


def test_overlaps_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_boxes(50, 0), random_boxes(40, 2)
    whole, pieces = torch.empty(50, 40), torch.empty(50, 40)
    bbox_overlaps(a, b, whole, mode=0, aligned=False, offset=0)
    monkeypatch.setattr("anybev.patches.ext.boxes._PAIRS_AT_ONCE", 100)
    bbox_overlaps(a, b, pieces, mode=0, aligned=False, offset=0)
    assert torch.equal(whole, pieces)


def test_overlaps_of_boxes_without_area_are_nan() -> None:
    point = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    ious = torch.zeros(1, 1)
    bbox_overlaps(point, point, ious, mode=0, aligned=False, offset=0)
    assert ious.isnan().all()
    bbox_overlaps(point, point, ious, mode=0, aligned=False, offset=1)
    assert ious.item() == 1


def test_overlaps_carry_no_gradient() -> None:
    a = random_boxes(3, 0).requires_grad_()
    ious = torch.zeros(3, 3)
    bbox_overlaps(a, a, ious, mode=0, aligned=False, offset=0)
    assert not ious.requires_grad


def chamfer(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sets = (a.shape[0], a.shape[1]), (b.shape[0], b.shape[1])
    distances = [torch.zeros(size) for size in sets]
    indices = [torch.zeros(size, dtype=torch.int32) for size in sets]
    chamfer_distance_forward(a, b, *distances, *indices)
    return distances[0], distances[1], indices[0], indices[1]


@pytest.mark.parametrize("at_once", [1 << 22, 20])
def test_chamfer_finds_the_nearest_of_all(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybev.patches.ext.boxes._PAIRS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 9, 2, generator=generator), torch.rand(2, 6, 2, generator=generator)
    distance_a, distance_b, index_a, index_b = chamfer(a, b)
    for points, others, distance, index in (
        (a, b, distance_a, index_a),
        (b, a, distance_b, index_b),
    ):
        for i in range(2):
            for j, p in enumerate(points[i].tolist()):
                away = [math.dist(p, q) ** 2 for q in others[i].tolist()]
                assert index[i, j] == away.index(min(away))
                assert float(distance[i, j]) == pytest.approx(min(away), rel=1e-5, abs=1e-7)


def test_chamfer_of_equally_near_points_takes_the_lowest_index() -> None:
    *_, index, _ = chamfer(torch.zeros(1, 1, 2), torch.tensor([[[2.0, 0], [0, 1], [1, 0], [0, 1]]]))
    assert index.tolist() == [[1]]


def test_chamfer_without_points_leaves_the_buffers() -> None:
    distance, *_ = chamfer(torch.rand(2, 3, 2), torch.rand(2, 0, 2))
    assert distance.abs().sum() == 0


def test_chamfer_backward_adds_the_gradient_of_autograd() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(2, n, 2, generator=generator).requires_grad_() for n in (9, 6))
    weight_a, weight_b = (
        torch.rand(2, 9, generator=generator),
        torch.rand(2, 6, generator=generator),
    )
    away = ((a[:, :, None] - b[:, None]) ** 2).sum(3)
    ((away.amin(2) * weight_a).sum() + (away.amin(1) * weight_b).sum()).backward()
    *_, index_a, index_b = chamfer(a.detach(), b.detach())
    grad_a, grad_b = torch.ones(2, 9, 2), torch.zeros(2, 6, 2)
    chamfer_distance_backward(
        a.detach(), b.detach(), index_a, index_b, weight_a, weight_b, grad_a, grad_b
    )
    assert a.grad is not None
    torch.testing.assert_close(grad_a - 1, a.grad)
    torch.testing.assert_close(grad_b, b.grad)


def test_host_bbox_overlaps_example(host: Any) -> None:
    from mmcv.ops import bbox_overlaps as of_mmcv

    a = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20], [32, 32, 38, 42]])
    b = torch.tensor([[0.0, 0, 10, 20], [0, 10, 10, 19], [10, 10, 20, 20]])
    expected = torch.tensor([[0.5, 0, 0], [0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(of_mmcv(a, b), expected)
    torch.testing.assert_close(of_mmcv(a, b, aligned=True), expected.diagonal())
    assert of_mmcv(a[:0], b).shape == (0, 3)


def test_host_chamfer_distance_has_a_gradient(host: Any) -> None:
    from mmcv.ops import chamfer_distance

    a = torch.rand(2, 5, 2, requires_grad=True)
    b = torch.rand(2, 4, 2, requires_grad=True)
    distance_a, distance_b, *_ = chamfer_distance(a, b)
    grads = torch.autograd.grad(distance_a.sum() + distance_b.sum(), (a, b))
    away = ((a[:, :, None] - b[:, None]) ** 2).sum(3)
    expected = torch.autograd.grad(away.amin(2).sum() + away.amin(1).sum(), (a, b))
    for found, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(found, wanted)
