"""mmcv._ext: hulls of nine points and quadrilaterals, against shapely."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.patches.ext import polygons as module
from anybev.patches.ext._polygon import hull
from anybev.patches.ext.polygons import (
    convex_giou,
    convex_iou,
    min_area_polygons,
    points_in_polygons_forward,
)

shapely = pytest.importorskip("shapely", reason="shapely comes with nuscenes-devkit")

# Of these, and only of these, edges and corners coincide with those of the squares below.
GRID = torch.tensor([[1.0, 1, 2, 2, 1, 2, 2, 1, 1, 3, 3, 1, 2, 3, 3, 2, 1.5, 1.5]])
SQUARES = torch.tensor([[1.0, 1, 1, 2, 2, 2, 2, 1], [1, 1, 1, 3, 3, 3, 3, 1]])


def random_sets(count: int) -> Tensor:
    return torch.rand(count, 18, generator=torch.Generator().manual_seed(0)) * 6 + 50


def random_quads(count: int) -> Tensor:
    """Corners on circles, so convex; of either orientation."""
    generator = torch.Generator().manual_seed(1)
    angle = torch.arange(4) * math.pi / 2 + torch.rand(count, 4, generator=generator) * 1.2
    ring = torch.stack([angle.cos(), angle.sin()], 2) * (
        torch.rand(count, 1, 1, generator=generator) * 2 + 1
    )
    corners = torch.rand(count, 1, 2, generator=generator) * 6 + 50 + ring
    corners[::2] = corners[::2].flip(1)
    return corners.reshape(count, 8)


def around(points: Tensor) -> list[Any]:
    return [
        shapely.MultiPoint(row).convex_hull for row in points.double().reshape(-1, 9, 2).numpy()
    ]


def filled(corners: Tensor) -> list[Any]:
    return [shapely.Polygon(row) for row in corners.double().reshape(-1, 4, 2).numpy()]


@pytest.mark.parametrize("at_once", [1 << 13, 10])
def test_convex_iou(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", at_once)
    points, corners = random_sets(15), random_quads(8)
    ious = torch.full((15, 8), -1.0)
    convex_iou(points, corners, ious)
    expected = [
        [p.intersection(q).area / p.union(q).area for q in filled(corners)] for p in around(points)
    ]
    torch.testing.assert_close(ious, torch.tensor(expected))


def test_convex_iou_of_coinciding_edges() -> None:
    ious = torch.zeros(2, 2)
    convex_iou(torch.cat([GRID, GRID + 0.5]), SQUARES, ious)
    expected = torch.tensor([[2 / 7, 7 / 8], [1 / 17, 3 / 7]])
    torch.testing.assert_close(ious, expected)


def test_polygons_side_by_side_share_nothing() -> None:
    ious = torch.full((1, 1), -1.0)
    convex_iou(GRID, SQUARES[1:] - torch.tensor([2.0, 0] * 4), ious)
    assert ious.item() == 0


def test_convex_giou() -> None:
    points, corners = random_sets(20), random_quads(20)
    output = torch.zeros(20, 19)
    convex_giou(points, corners, output)
    expected = []
    for p, q in zip(around(points), filled(corners), strict=True):
        union, enclosing = p.union(q).area, p.union(q).convex_hull.area
        expected.append(p.intersection(q).area / union - (enclosing - union) / enclosing)
    torch.testing.assert_close(output[:, 18], torch.tensor(expected))


def test_convex_giou_gradient() -> None:
    points, corners = random_sets(12).double(), random_quads(12).double()

    def giou(at: Tensor) -> Tensor:
        output = at.new_zeros(12, 19)
        convex_giou(at, corners, output)
        return output

    grad, step = giou(points)[:, :18], 1e-5
    for column in range(18):
        aside = torch.zeros_like(points)
        aside[:, column] = step
        slope = (giou(points + aside) - giou(points - aside))[:, 18] / (2 * step)
        torch.testing.assert_close(grad[:, column], slope, rtol=1e-5, atol=1e-7)


def test_convex_giou_gradient_of_touching_polygons_is_one_that_a_side_has() -> None:
    output = torch.zeros(1, 19)
    convex_giou(GRID + 0.5, SQUARES[1:], output)
    first, upper = [-0.1848, -0.1848], [-0.1076, -0.0801, -0.0801, -0.1076]
    last = [-0.0367, -0.0734, -0.0734, -0.0367]
    expected = torch.tensor([[*first, *[0.0] * 6, *upper, *last, 0, 0, 0.3831]])
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)


def test_smallest_rectangle() -> None:
    points = random_sets(30)
    rectangles = torch.zeros(30, 8)
    min_area_polygons(points, rectangles)
    for p, rectangle in zip(around(points), filled(rectangles), strict=True):
        assert rectangle.area == pytest.approx(p.minimum_rotated_rectangle.area, rel=1e-4)
        assert rectangle.buffer(1e-3).contains(p)


def test_smallest_rectangle_begins_at_greatest_x_and_least_y() -> None:
    far = GRID.clone()
    far[0, 2:4] = 8
    rectangles = torch.zeros(2, 8)
    min_area_polygons(torch.cat([GRID, far]), rectangles)
    expected = torch.tensor(
        [[3.0, 1, 1, 1, 1, 3, 3, 3], [8, 8, 2.3243, 0.0541, 0.0541, 1.6757, 5.7297, 9.6216]]
    )
    torch.testing.assert_close(rectangles, expected, rtol=0, atol=1e-4)


def test_smallest_rectangle_of_a_line_and_of_a_point() -> None:
    line = torch.arange(9.0)[:, None].expand(9, 2).reshape(1, 18)
    rectangles = torch.full((2, 8), -1.0)
    min_area_polygons(torch.cat([line, torch.ones(1, 18)]), rectangles)
    expected = torch.tensor([[8.0, 8, 0, 0, 0, 0, 8, 8], [1.0] * 8])
    torch.testing.assert_close(rectangles, expected, rtol=0, atol=1e-5)


def test_hull_takes_outer_points_once() -> None:
    square = [[0.0, 0], [2, 0], [2, 2], [0, 2]]
    points = torch.tensor([[*square, [1, 0], [1, 1], [2, 0], [2, 1]]]).double()
    assert hull(points).tolist() == [[1, 2, 3, 0, -1, -1, -1, -1]]


def test_points_in_polygons() -> None:
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(3)) * 8 + 49
    corners = random_quads(7)
    inside = torch.full((300, 7), -1.0)
    points_in_polygons_forward(points, corners, inside)
    expected = [
        [float(q.contains(shapely.Point(p))) for q in filled(corners)] for p in points.tolist()
    ]
    assert torch.equal(inside, torch.tensor(expected))


def test_points_on_the_boundary_as_upstream_has_them() -> None:
    points = torch.tensor([[300.0, 300], [400, 400], [100, 100], [300, 250], [100, 0]])
    corners = torch.tensor(
        [
            [200.0, 200, 400, 400, 500, 200, 400, 100],
            [400, 400, 500, 500, 600, 300, 500, 200],
            [300, 300, 600, 700, 700, 700, 700, 100],
        ]
    )
    inside = torch.zeros(5, 3)
    points_in_polygons_forward(points, corners, inside)
    assert inside.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_nothing_given() -> None:
    none = torch.zeros(0, 18)
    convex_iou(none, SQUARES, torch.zeros(0, 2))
    convex_iou(GRID, SQUARES[:0], torch.zeros(1, 0))
    convex_giou(none, SQUARES[:0], torch.zeros(0, 19))
    min_area_polygons(none, torch.zeros(0, 8))
    points_in_polygons_forward(torch.zeros(3, 2), SQUARES[:0], torch.zeros(3, 0))
    points_in_polygons_forward(torch.zeros(0, 2), SQUARES, torch.zeros(0, 2))


def test_host_wrappers(host: Any) -> None:
    from mmcv import ops

    points, corners = random_sets(4), random_quads(4)
    giou, grad = ops.convex_giou(points, corners)
    assert giou.shape == (4,)
    assert grad.shape == (4, 18)
    assert (giou <= ops.convex_iou(points, corners).diagonal() + 1e-6).all()
    assert ops.min_area_polygons(points).shape == (4, 8)
    centre = corners.reshape(4, 4, 2).mean(1)
    assert ops.points_in_polygons(centre, corners).diagonal().eq(1).all()
