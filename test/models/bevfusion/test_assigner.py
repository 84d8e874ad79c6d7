"""Costs and matchings against loops over pairs and permutations."""

import itertools
import math

import pytest
import torch

from anybev.models.bevfusion.assigner import (
    BBoxBEVL1Cost,
    BboxOverlaps3D,
    Candidates,
    FocalLossCost,
    HeuristicAssigner3D,
    HungarianAssigner3D,
    IoU3DCost,
)
from anybev.testing.tolerances import tolerances

RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]


def _boxes(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).view(-1, 7)


def _hungarian() -> HungarianAssigner3D:
    return HungarianAssigner3D(FocalLossCost(0.15), BBoxBEVL1Cost(0.25), IoU3DCost(0.25))


def test_overlap_of_shifted_cubes_by_hand() -> None:
    a = _boxes([0, 0, 0, 2, 2, 2, 0], [0, 0, 0, 2, 2, 2, math.pi / 2])
    b = _boxes([1, 0, 0, 2, 2, 2, 0], [0, 0, 1, 2, 2, 2, 0], [0, 0, 2, 2, 2, 2, 0])
    third, none = 1 / 3, 0.0
    wanted = torch.tensor([[third, third, none], [third, third, none]])
    torch.testing.assert_close(BboxOverlaps3D()(a, b), wanted, **tolerances(torch.float32))
    flat = _boxes([0, 0, 0, 0, 2, 2, 0])
    assert BboxOverlaps3D()(flat, a).isfinite().all()
    assert BboxOverlaps3D()(a, a[:0]).shape == (2, 0)


def test_costs_equal_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    boxes, gt = torch.randn(5, 9) * 10, torch.randn(3, 9) * 10
    logits, labels = torch.randn(5, 10), torch.tensor([1, 9, 4])
    iou = torch.rand(5, 3)
    candidates = Candidates(boxes, logits, torch.zeros(5, dtype=torch.int64), gt, labels)
    cost = _hungarian().costs(candidates, iou, RANGE)
    for q, g in itertools.product(range(5), range(3)):
        p = torch.sigmoid(logits[q, labels[g]]).item()
        focal = -math.log(p) * 0.25 * (1 - p) ** 2 + math.log(1 - p) * 0.75 * p**2
        l1 = sum(abs(boxes[q, i] - gt[g, i]).item() / 108 for i in (0, 1))
        wanted = 0.15 * focal + 0.25 * l1 - 0.25 * iou[q, g].item()
        assert cost[q, g].item() == pytest.approx(wanted, abs=1e-5)


def test_matching_is_the_cheapest_of_all() -> None:
    torch.manual_seed(1)
    cost = torch.randn(5, 3)
    row = _hungarian().match([cost])[0]
    got = sum(cost[q, row[q] - 1].item() for q in range(5) if row[q])
    best = min(
        sum(cost[q, g].item() for g, q in enumerate(queries))
        for queries in itertools.permutations(range(5), 3)
    )
    assert got == pytest.approx(best, abs=1e-6)
    assert sorted(row[row > 0].tolist()) == [1, 2, 3]


def test_samples_of_a_batch_are_matched_apart() -> None:
    torch.manual_seed(2)
    costs = [torch.randn(4, n) for n in (2, 0, 7)]
    together = _hungarian().match(costs)
    assert together.shape == (3, 4)
    assert together[1].tolist() == [0, 0, 0, 0]
    assert (together[2] > 0).all()  # more boxes than queries: every query is taken
    for row, cost in zip(together, costs, strict=True):
        assert torch.equal(row, _hungarian().match([cost])[0])


def test_diverged_costs_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="cost must be finite, got NaN or infinity; try"):
        _hungarian().match([torch.full((3, 2), float("nan"))])


def test_heuristic_takes_the_nearest_query_of_the_class() -> None:
    queries = _boxes(*([x, 0.0, 0, 1, 1, 1, 0] for x in (0.0, 1.0, 30.0)))
    gt = _boxes(*([x, 0.0, 0, 1, 1, 1, 0] for x in (0.4, 0.3, 31.0, 200.0)))
    candidates = Candidates(
        queries, torch.zeros(3, 10), torch.tensor([2, 2, 5]), gt, torch.tensor([2, 2, 2, 5])
    )
    assigner = HeuristicAssigner3D(dist_thre=100)
    cost = assigner.costs(candidates, torch.zeros(3, 4), RANGE)
    # Boxes 0 and 1 want query 0, the nearer keeps it; box 2 finds query 1; box 3 is too far.
    assert assigner.match([cost])[0].tolist() == [2, 3, 0]
    assert assigner.match([cost[:, :0]])[0].tolist() == [0, 0, 0]
    tie = torch.tensor([[1.0, 1.0], [5.0, 5.0]])
    assert assigner.match([tie])[0].tolist() == [1, 0]


def test_only_lidar_boxes() -> None:
    with pytest.raises(ValueError, match="coordinate must be lidar, got 'camera'"):
        BboxOverlaps3D("camera")
