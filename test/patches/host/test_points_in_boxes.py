"""mmcv's points_in_boxes_part and _all without CUDA."""

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("host")


def boxes_and_points() -> tuple[torch.Tensor, torch.Tensor]:
    boxes = torch.tensor([[[0.0, 0, 0, 2, 2, 2, 0], [1, 0, 0, 2, 2, 2, 0]]])
    points = torch.tensor([[[-0.5, 0, 1], [0.5, 0, 1], [1.5, 0, 1], [5, 0, 1]]])
    return boxes, points


def test_points_are_found_on_the_cpu() -> None:
    from mmcv.ops import points_in_boxes_all, points_in_boxes_cpu, points_in_boxes_part

    boxes, points = boxes_and_points()
    assert points_in_boxes_part(points, boxes).tolist() == [[0, 0, 1, -1]]
    held = points_in_boxes_all(points, boxes)
    assert held.tolist() == [[[1, 0], [1, 1], [0, 1], [0, 0]]]
    assert held.dtype == torch.int32
    assert torch.equal(points_in_boxes_cpu(points, boxes), held)


def test_boxes_of_mmdetection3d_find_points_through_them() -> None:
    from mmdet3d.structures import LiDARInstance3DBoxes

    boxes, points = boxes_and_points()
    of_lidar = LiDARInstance3DBoxes(boxes[0])
    assert of_lidar.points_in_boxes_part(points[0]).tolist() == [0, 0, 1, -1]
    assert of_lidar.points_in_boxes_all(points[0]).tolist() == [[1, 0], [1, 1], [0, 1], [0, 0]]


def test_upstream_checks_stay() -> None:
    from mmcv.ops import points_in_boxes_all, points_in_boxes_part

    boxes, points = boxes_and_points()
    for test in (points_in_boxes_part, points_in_boxes_all):
        with pytest.raises(AssertionError, match="boxes dimension should be 7"):
            test(points, boxes[..., :6])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_what_upstream_finds_on_cuda_is_found(host: Any) -> None:
    from mmcv.ops import points_in_boxes_all, points_in_boxes_part

    boxes, points = (value.cuda() for value in boxes_and_points())
    for test in (points_in_boxes_part, points_in_boxes_all):
        assert torch.equal(test(points, boxes), test.__wrapped__(points, boxes))
