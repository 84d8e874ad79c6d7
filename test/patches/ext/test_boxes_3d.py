"""mmcv._ext: boxes with a height, point by point and against shapely."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.patches.ext.boxes_3d import (
    iou3d_boxes_overlap_bev_forward,
    points_in_boxes_all_forward,
    points_in_boxes_cpu_forward,
    points_in_boxes_part_forward,
)


def holds(box: list[float], point: list[float]) -> bool:
    x, y, z, dx, dy, dz, heading = box
    u, v = point[0] - x, point[1] - y
    along = u * math.cos(heading) + v * math.sin(heading)
    across = v * math.cos(heading) - u * math.sin(heading)
    sides = -dx / 2 < along < dx / 2 and -dy / 2 < across < dy / 2
    return sides and abs(point[2] - z - dz / 2) <= dz / 2


def random_boxes(batch: int, count: int) -> Tensor:
    boxes = torch.rand(batch, count, 7, generator=torch.Generator().manual_seed(0))
    return boxes * torch.tensor([8.0, 8, 2, 5, 3, 3, 9]) + torch.tensor(
        [0.0, 0, -2, 0.5, 0.5, 1, -4]
    )


def random_points(batch: int, count: int) -> Tensor:
    points = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(1))
    return points * torch.tensor([8.0, 8, 4]) - torch.tensor([0.0, 0, 2])


def by_hand(boxes: Tensor, points: Tensor) -> Tensor:
    return torch.tensor(
        [
            [[holds(box, point) for box in some] for point in among]
            for some, among in zip(boxes.tolist(), points.tolist(), strict=True)
        ]
    )


def part(boxes: Tensor, points: Tensor) -> Tensor:
    index = torch.full(points.shape[:2], -1, dtype=torch.int32)
    points_in_boxes_part_forward(boxes, points, index)
    return index


def every(boxes: Tensor, points: Tensor) -> Tensor:
    held = torch.zeros((*points.shape[:2], boxes.shape[1]), dtype=torch.int32)
    points_in_boxes_all_forward(boxes, points, held)
    return held


@pytest.mark.parametrize("at_once", [1 << 22, 100])
def test_first_box_of_each_point(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybev.patches.ext.boxes_3d._TESTS_AT_ONCE", at_once)
    boxes, points = random_boxes(2, 9), random_points(2, 200)
    expected = by_hand(boxes, points)
    first = torch.where(expected.any(2), expected.int().argmax(2), -1)
    assert (first > 0).any()
    assert torch.equal(part(boxes, points), first.int())


def test_every_box_of_each_point() -> None:
    boxes, points = random_boxes(2, 9), random_points(2, 200)
    expected = by_hand(boxes, points).int()
    assert torch.equal(every(boxes, points), expected)
    held = torch.full((9, 200), 7, dtype=torch.int32)
    points_in_boxes_cpu_forward(boxes[0], points[0], held)
    assert torch.equal(held, expected[0].T)


def test_sides_are_outside_bottom_and_top_inside() -> None:
    box = torch.tensor([[[1.0, 2, 3, 4, 2, 1, 0]]])
    faces = [[3.0, 2, 3.5], [-1, 2, 3.5], [1, 3, 3.5], [1, 1, 3.5], [1, 2, 3], [1, 2, 4]]
    inside = [[2.999, 2, 3.5], [-0.999, 2, 3.5]]
    points = torch.tensor([faces + inside])
    assert part(box, points).tolist() == [[-1, -1, -1, -1, 0, 0, 0, 0]]
    assert every(box, points)[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("size", [[0.0, 1, 1], [1, 0, 1], [-1, 1, 1], [1, 1, -1]])
def test_boxes_without_a_size_hold_nothing(size: list[float]) -> None:
    box = torch.tensor([[[0.0, 0, 0, *size, 0]]])
    assert part(box, torch.zeros(1, 1, 3)).item() == -1


def test_what_the_caller_put_into_the_buffers_stays() -> None:
    box, points = torch.tensor([[[0.0, 0, 0, 1, 1, 1, 0]]]), torch.tensor([[[9.0, 9, 9]]])
    index = torch.full((1, 1), -7, dtype=torch.int32)
    points_in_boxes_part_forward(box, points, index)
    assert index.item() == -7
    points_in_boxes_part_forward(box[:, :0], points, index)
    assert index.item() == -7


def test_no_points_and_no_boxes() -> None:
    boxes, points = random_boxes(2, 3), random_points(2, 4)
    assert part(boxes, points[:, :0]).shape == (2, 0)
    assert (part(boxes[:, :0], points) == -1).all()
    assert every(boxes, points[:, :0]).shape == (2, 0, 3)
    assert every(boxes[:, :0], points).shape == (2, 4, 0)
    points_in_boxes_cpu_forward(boxes[0, :0], points[0], torch.zeros(0, 4, dtype=torch.int32))


def test_half_precision_and_strided_inputs() -> None:
    boxes, points = random_boxes(2, 9), random_points(2, 50)
    wide = torch.cat([points, points], 2)[..., :3]
    assert torch.equal(part(boxes, wide), part(boxes, points))
    half, exact = (
        part(boxes.half(), points.half()),
        part(boxes.half().float(), points.half().float()),
    )
    assert torch.equal(half, exact)


def test_area_shared_from_above() -> None:
    shapely = pytest.importorskip("shapely", reason="shapely comes with nuscenes-devkit")
    affinity = pytest.importorskip("shapely.affinity", reason="shapely comes with nuscenes-devkit")

    def polygon(box: list[float]) -> Any:
        x, y, _, dx, dy, _, heading = box
        upright = shapely.box(x - dx / 2, y - dy / 2, x + dx / 2, y + dy / 2)
        return affinity.rotate(upright, heading, use_radians=True)

    boxes = random_boxes(2, 12)
    shared = torch.full((12, 12), -1.0)
    iou3d_boxes_overlap_bev_forward(boxes[0], boxes[1], shared)
    first, second = ([polygon(box) for box in some] for some in boxes.tolist())
    expected = torch.tensor([[a.intersection(b).area for b in second] for a in first])
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-4)


def test_boxes_side_by_side_share_nothing() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 0, 2, 2, 2, 0], [2, 0, 0, 2, 2, 2, 0], [2.005, 0, 0, 2, 2, 2, 0]]
    )
    shared = torch.full((1, 3), -1.0)
    iou3d_boxes_overlap_bev_forward(boxes[:1], boxes, shared)
    torch.testing.assert_close(shared, torch.tensor([[4.0, 0, 0]]))


def test_host_boxes_iou3d_counts_z_from_the_centre(host: Any) -> None:
    from mmcv.ops import boxes_iou3d, boxes_overlap_bev

    corner = 2 * math.sqrt(2) - 2  # of an octagon: a square cut by its turned self
    square = [1.0, 1, 1, 2, 2, 2]
    a = torch.tensor([[*square, 0], [2, 2, 2, 2, 2, 2, 0], [3, 3, 3, 3, 2, 2, 0]])
    b = torch.tensor([[*square, 0], [*square, math.pi / 2], [*square, math.pi / 4]])
    octagon = 4 - 2 * (2 - math.sqrt(2)) ** 2 * 1
    shared = torch.tensor([[4.0, 4, octagon], [1, 1, 1], [0, 0, 0]])
    assert octagon == pytest.approx(4 * corner)
    torch.testing.assert_close(boxes_overlap_bev(a, b), shared, rtol=1e-4, atol=1e-5)
    iou = boxes_iou3d(a, b)
    expected = torch.tensor([[1.0, 1, octagon / (8 - octagon)], [1 / 15] * 3, [0.0] * 3])
    torch.testing.assert_close(iou, expected, rtol=1e-4, atol=1e-5)
