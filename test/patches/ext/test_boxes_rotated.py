"""mmcv._ext: overlaps of rotated boxes, against shapely."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.patches.ext.boxes_rotated import (
    box_iou_rotated,
    diff_iou_rotated_sort_vertices_forward,
    in_radians,
)

shapely = pytest.importorskip("shapely", reason="shapely comes with nuscenes-devkit")


def polygon(box: list[float]) -> Any:
    x, y, w, h, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    local = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    return shapely.Polygon([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in local])


def by_shapely(a: list[float], b: list[float], mode: str) -> float:
    first, second = polygon(a), polygon(b)
    shared = first.intersection(second).area
    return float(shared / (first.union(second).area if mode == "iou" else first.area))


def random_boxes(count: int, seed: int) -> Tensor:
    boxes = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed))
    return boxes * torch.tensor([6.0, 6, 5, 3, 9]) + torch.tensor([40.0, -60, 0.5, 0.5, -4])


@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_overlaps_of_all_pairs(mode: str) -> None:
    a, b = random_boxes(12, 0), random_boxes(9, 1)
    ious = torch.full((12 * 9,), -1.0)
    box_iou_rotated(a, b, ious, mode_flag=int(mode == "iof"), aligned=False)
    expected = [by_shapely(p, q, mode) for p in a.tolist() for q in b.tolist()]
    torch.testing.assert_close(ious, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_overlaps_of_aligned_boxes(mode: str) -> None:
    a, b = random_boxes(70, 0), random_boxes(70, 1)
    ious = torch.full((70,), -1.0)
    box_iou_rotated(a, b, ious, mode_flag=int(mode == "iof"), aligned=True)
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    expected = torch.tensor([by_shapely(p, q, mode) for p, q in pairs])
    torch.testing.assert_close(ious, expected, rtol=1e-4, atol=1e-5)


def test_overlaps_of_no_boxes() -> None:
    for aligned, size in ((False, (0, 3)), (True, (0,))):
        ious = torch.empty(size)
        box_iou_rotated(random_boxes(0, 0), random_boxes(0 if aligned else 3, 1), ious, 0, aligned)


def test_overlaps_need_an_area_not_positive_sizes() -> None:
    box = torch.tensor([[1.0, 2, 3, 2, 0.3]])
    odd = torch.tensor(
        [[1.0, 2, -3, -2, 0.3], [1, 2, -3, 2, 0.3], [1, 2, 0, 2, 0.3], [1, 2, 1e-8, 1e-8, 0.3]]
    )
    for mode_flag in (0, 1):
        ious = torch.full((1, 4), -1.0)
        box_iou_rotated(box, odd, ious, mode_flag, aligned=False)
        torch.testing.assert_close(ious, torch.tensor([[1.0, 0, 0, 0]]))
        ious = torch.full((4, 1), -1.0)
        box_iou_rotated(odd, box, ious, mode_flag, aligned=False)
        torch.testing.assert_close(ious, torch.tensor([[1.0], [0], [0], [0]]))


def test_angles_come_in_degrees_on_an_npu() -> None:
    class OnNpu(Tensor):
        device = property(lambda self: SimpleNamespace(type="npu"))  # type: ignore[assignment]

    boxes = random_boxes(3, 0)
    in_degrees = torch.cat([boxes[:, :4], torch.rad2deg(boxes[:, 4:])], 1)
    found = in_radians(in_degrees.as_subclass(OnNpu)).as_subclass(Tensor)
    torch.testing.assert_close(found, boxes)
    assert in_radians(boxes) is boxes


def sorted_corners(corners: list[list[float]], valid: list[int], slots: int = 24) -> list[int]:
    vertices = torch.zeros(1, 1, slots, 2)
    mask = torch.zeros(1, 1, slots, dtype=torch.bool)
    for place, corner in zip(valid, corners, strict=True):
        vertices[0, 0, place], mask[0, 0, place] = torch.tensor(corner), True
    count = mask.sum(2).int()
    order = diff_iou_rotated_sort_vertices_forward(vertices, mask, count)
    assert order.shape == (1, 1, 9)
    assert order.dtype == torch.int32
    return order[0, 0].tolist()


def test_corners_are_sorted_counter_clockwise_from_the_x_axis() -> None:
    corners = [[1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]]
    assert sorted_corners(corners, [0, 3, 6, 8]) == [8, 3, 6, 0, 8, 9, 9, 9, 9]


def test_corners_on_the_x_axis_are_not_lost() -> None:
    corners = [[0.0, -1.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    assert sorted_corners(corners, [8, 9, 10, 11]) == [11, 10, 9, 8, 11, 12, 12, 12, 12]


def test_fewer_than_three_corners_make_no_polygon() -> None:
    assert sorted_corners([[1.0, 0.0], [-1.0, 0.0]], [0, 8]) == [9] * 9
    assert sorted_corners([], []) == [8] * 9


def test_coinciding_corners_count_once() -> None:
    square = [[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]
    assert sorted_corners(square * 2, list(range(8))) == [0, 1, 2, 3, 0, 8, 8, 8, 8]
    assert sorted_corners([[0.0, 0.0]] * 4, [0, 1, 2, 3]) == [0, 0, 8, 8, 8, 8, 8, 8, 8]


def test_of_more_than_eight_corners_those_that_nearly_coincide_go() -> None:
    ring = [[math.cos(t * math.pi / 4 + 0.1), math.sin(t * math.pi / 4 + 0.1)] for t in range(8)]
    near = [[math.cos(0.1 + 1e-4), math.sin(0.1 + 1e-4)]]
    order = sorted_corners(ring + near, [*range(8), 9])
    assert order in ([0, 1, 2, 3, 4, 5, 6, 7, 0], [9, 1, 2, 3, 4, 5, 6, 7, 9])


def test_host_box_iou_rotated_both_ways_round(host: Any) -> None:
    from mmcv.ops import box_iou_rotated as of_mmcv

    a, b = random_boxes(4, 0), random_boxes(3, 1)
    turned = torch.tensor([1.0, 1, 1, 1, -1])
    expected = torch.tensor([[by_shapely(p, q, "iou") for q in b.tolist()] for p in a.tolist()])
    torch.testing.assert_close(of_mmcv(a, b), expected, rtol=1e-4, atol=1e-5)
    flipped = of_mmcv(a * turned, b * turned, clockwise=False)
    torch.testing.assert_close(flipped, expected, rtol=1e-4, atol=1e-5)
    assert of_mmcv(a[:0], b).shape == (0, 3)


def test_host_lidar_boxes_overlap(host: Any) -> None:
    from mmdet3d.structures import LiDARInstance3DBoxes

    box = [40.0, -5.0, -1.0, 4.0, 2.0, 1.5, 0.7]
    higher, turned = [*box], [*box]
    higher[2] += 0.75
    turned[6] += math.pi / 2
    boxes = LiDARInstance3DBoxes(torch.tensor([box, higher, turned]))
    volumes = boxes.overlaps(boxes, boxes)
    torch.testing.assert_close(volumes[0], torch.tensor([1.0, 1 / 3, 1 / 3]), rtol=1e-4, atol=1e-5)


def test_host_diff_iou_rotated_2d(host: Any) -> None:
    from mmcv.ops import diff_iou_rotated_2d

    a, b = random_boxes(60, 0).double(), random_boxes(60, 1).double()
    b[::2, :2] = a[::2, :2] + 0.3  # half of the pairs overlap by much
    iou = diff_iou_rotated_2d(a[None], b[None])[0]
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    expected = torch.tensor([by_shapely(p, q, "iou") for p, q in pairs], dtype=torch.float64)
    torch.testing.assert_close(iou, expected, rtol=1e-5, atol=1e-6)


def test_host_diff_iou_rotated_3d_gradcheck(host: Any) -> None:
    from mmcv.ops import diff_iou_rotated_3d

    a = torch.tensor([[[0.0, 0, 0, 4, 2, 1.5, 0.3], [5, 5, 1, 3, 3, 2, 1.0]]]).double()
    b = a + torch.tensor([0.4, -0.3, 0.2, 0.3, 0.2, 0.1, 0.5]).double()
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(diff_iou_rotated_3d, (a, b))


def test_host_diff_iou_of_identical_boxes_is_one(host: Any) -> None:
    from mmcv.ops import diff_iou_rotated_2d

    boxes = torch.tensor([[[0.0, 0, 2, 2, 0], [1, 2, 4, 2, 0], [1, -1, 1, 3, 0]]]).requires_grad_()
    iou = diff_iou_rotated_2d(boxes, boxes.detach().clone())
    torch.testing.assert_close(iou, torch.ones(1, 3))
    (grad,) = torch.autograd.grad(iou.sum(), boxes)
    assert grad.isfinite().all()
