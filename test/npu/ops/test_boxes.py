"""Rotated boxes on the simulated npu: through mx_driving's contract, as on the CPU."""

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu import limits
from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops.box_iou_rotated import box_iou_rotated
from anybev.device.ops.nms_rotated import nms_rotated
from anybev.device.ops.points_in_boxes import points_in_boxes
from anybev.testing import simnpu
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same


def flat(draw: Generator, count: int) -> Tensor:
    scale, shift = torch.tensor([6.0, 6, 4, 4, 6]), torch.tensor([-3.0, -3, 0.2, 0.2, -3])
    return torch.rand(count, 5, generator=draw) * scale + shift


def standing(draw: Generator, count: int, columns: int = 9) -> Tensor:
    rows = torch.rand(count, columns, generator=draw) * 4
    rows[:, :2] -= 2
    rows[:, 2] = -1
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (12, 7)])
def test_iou_equals_the_cpu(
    mx: Binding, draw: Generator, dtype: torch.dtype, rows: int, columns: int
) -> None:
    a, b = flat(draw, rows).to(dtype), flat(draw, columns).to(dtype)
    assert_same(box_iou_rotated, a, b)
    assert_same(box_iou_rotated, flat(draw, 9)[::2], torch.cat([b, b], 1)[:, 5:])
    assert mx.calls == ["npu_box_iou_rotated"] * 2


def test_iou_of_odd_boxes(mx: Binding, draw: Generator) -> None:
    a, b = flat(draw, 6), flat(draw, 6)
    a[0, 2], a[1, 3], a[2, 4], a[3, 0] = 0.0, -1.0, torch.nan, torch.inf
    b[:] = a
    b[4, 2:4] = -1.0
    assert_same(box_iou_rotated, a, b)
    assert_same(box_iou_rotated, a[:0], b)
    assert mx.calls == ["npu_box_iou_rotated"]


def test_areas_of_intersections_equal_the_cpu(mx: Binding, draw: Generator) -> None:
    a, b = flat(draw, 9), flat(draw, 7)
    a[0, 2], a[1, 3] = 0.0, torch.nan
    assert_same(lambda a, b: box_iou_rotated(a, b, mode="intersection"), a, b)
    assert mx.calls == ["npu_box_iou_rotated"]


def test_float64_boxes_stay_float64(mx: Binding, draw: Generator) -> None:
    with simnpu.allow_float64(), pytest.warns(KernelFallbackWarning, match="not be float64"):
        assert_same(box_iou_rotated, *[flat(draw, 5).double()] * 2)


def test_more_pairs_than_the_kernel_counts(
    mx: Binding, draw: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BOX_PAIRS", 11)
    with pytest.warns(KernelFallbackWarning, match="pairs must be at most 11, got 12"):
        assert_same(box_iou_rotated, flat(draw, 4), flat(draw, 3))
    assert mx.calls == []


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_suppression_equals_the_cpu(
    mx: Binding, draw: Generator, threshold: float, dtype: torch.dtype
) -> None:
    boxes, scores = flat(draw, 30).to(dtype), torch.rand(30, generator=draw)
    assert_same(lambda b, s: nms_rotated(b, s, threshold), boxes, scores.to(dtype))
    assert mx.calls == ["nms3d"]


def test_equal_scores_and_odd_boxes(mx: Binding, draw: Generator) -> None:
    boxes = flat(draw, 24)
    scores = (torch.rand(24, generator=draw) * 3).round()
    boxes[3, 0], boxes[7, 4], boxes[9, 2] = torch.nan, torch.inf, 0.0
    assert_same(lambda b, s: nms_rotated(b, s, 0.1), boxes, scores)
    assert_same(lambda b, s: nms_rotated(b, s, 0.1), boxes[:0], scores[:0])
    assert mx.calls == ["nms3d"]


def test_more_boxes_than_int16_counts(
    mx: Binding, draw: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NMS_BOXES", 5)
    with pytest.warns(KernelFallbackWarning, match="boxes must be at most 5, got 6"):
        assert_same(
            lambda b, s: nms_rotated(b, s, 0.1), flat(draw, 6), torch.rand(6, generator=draw)
        )
    assert mx.calls == ["npu_box_iou_rotated"]  # what the reference asks for


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("boxes", [1, 200, 201])
def test_points_equal_the_cpu(mx: Binding, draw: Generator, dtype: torch.dtype, boxes: int) -> None:
    """The limit of 200 boxes is that of points_in_box, which asks for the first box alone."""
    points = torch.rand(80, 5, generator=draw) * 5 - 2.5
    assert_same(points_in_boxes, points.to(dtype), standing(draw, boxes).to(dtype))
    assert_same(points_in_boxes, points[::3, 1:4], standing(draw, 8, 12)[::2, 2:])
    assert mx.calls == ["npu_points_in_box_all"] * 2


def test_faces_belong_to_the_box(mx: Binding) -> None:
    box = torch.tensor([[0.25, -0.75, -1.0, 1.5, 0.5, 2.0, 0.0]])
    half = box[0, 3:5] / 2
    signs = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [1, 1]])
    faces = torch.cat([box[0, :2] + signs * half, torch.zeros(5, 1)], 1)
    ends = torch.tensor([[0.25, -0.75, -1.0], [0.25, -0.75, 1.0]])
    far = faces + torch.cat([signs * 1e-3, torch.zeros(5, 1)], 1)
    inside = points_in_boxes(torch.cat([faces, ends, far]).npu(), box.npu()).cpu().squeeze(1)
    assert inside.tolist() == [True] * 7 + [False] * 5
    assert_same(points_in_boxes, torch.cat([faces, ends, far]), box)


def test_odd_points_and_boxes(mx: Binding, draw: Generator) -> None:
    points, boxes = torch.rand(30, 3, generator=draw) * 5 - 2.5, standing(draw, 6)
    points[3, 1], boxes[2, 3], boxes[3, 0], boxes[4, 6] = torch.nan, -1.0, torch.nan, torch.nan
    assert_same(points_in_boxes, points, boxes)
    assert_same(points_in_boxes, points[:0], boxes)
    assert_same(points_in_boxes, points, boxes[:0])
    assert mx.calls == ["npu_points_in_box_all"]
