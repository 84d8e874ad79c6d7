"""Points in boxes against a loop over the pairs."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anybev.device.ops.points_in_boxes import _CONTRACT, points_in_boxes


def loop(points: Tensor, boxes: Tensor) -> Tensor:
    """One pair after the other, in float64."""
    inside = torch.zeros(len(points), len(boxes), dtype=torch.bool)
    for i, (px, py, pz) in enumerate(points[:, :3].double().tolist()):
        for j, (x, y, bottom, dx, dy, dz, yaw) in enumerate(boxes[:, :7].double().tolist()):
            turn = math.atan2(py - y, px - x) - yaw
            reach = math.hypot(px - x, py - y)
            along, across = reach * math.cos(turn), reach * math.sin(turn)
            flat = abs(along) <= dx / 2 and abs(across) <= dy / 2
            inside[i, j] = flat and 0 <= pz - bottom <= dz
    return inside


def scene(
    points: int, boxes: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randn(points, 5, generator=generator, dtype=torch.float64) * 4
    cuboids = torch.randn(boxes, 9, generator=generator, dtype=torch.float64) * 3
    cuboids[:, 3:6] = torch.rand(boxes, 3, generator=generator, dtype=torch.float64) * 6
    return cloud.to(dtype), cuboids.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("points", "boxes"), [(300, 23), (20, 333), (1, 1), (0, 4), (4, 0), (0, 0)]
)
def test_against_the_loop(implementation: str, dtype: torch.dtype, points: int, boxes: int) -> None:
    inputs = scene(points, boxes, dtype)
    actual = points_in_boxes(*inputs)
    assert actual.dtype == torch.bool
    assert torch.equal(actual, loop(*inputs))
    assert points < 300 or actual.any(0).sum() > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_implementations_agree(dtype: torch.dtype) -> None:
    inputs = scene(20_000, 50, dtype, seed=1)
    native = torch.ops.anybev.points_in_boxes(*inputs)
    assert torch.equal(native, torch.ops.anybev.points_in_boxes_reference(*inputs))


def test_reference_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "points_in_boxes=reference")
    inputs = scene(100, 7)
    whole = points_in_boxes(*inputs)
    monkeypatch.setattr("anybev.device.ops.points_in_boxes._TESTS_AT_ONCE", 50)
    assert torch.equal(points_in_boxes(*inputs), whole)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_faces_belong_to_the_box(implementation: str, axis: int) -> None:
    box = torch.tensor([[10.0, -4.0, 1.0, 4.0, 2.0, 3.0, 0.0]])
    centre = torch.tensor([10.0, -4.0, 2.5])
    half = torch.tensor([2.0, 1.0, 1.5])
    for side in (-1, 1):
        on_face, outside = centre.clone(), centre.clone()
        on_face[axis] += side * half[axis]
        outside[axis] = torch.nextafter(on_face[axis], on_face[axis] + side)
        assert points_in_boxes(torch.stack([on_face, outside]), box).tolist() == [[True], [False]]


def test_yaw_turns_counter_clockwise(implementation: str) -> None:
    box = torch.tensor([[0.0, 0, 0, 10, 1, 1, math.pi / 4]])
    points = torch.tensor([[3.0, 3.0, 0.5], [3.0, -3.0, 0.5]])
    assert points_in_boxes(points, box).tolist() == [[True], [False]]


def test_z_counts_from_the_bottom(implementation: str) -> None:
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    points = torch.tensor([[0.0, 0, 1.9], [0, 0, -0.5]])
    assert points_in_boxes(points, box).tolist() == [[True], [False]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_points_are_in_no_box(implementation: str, bad: float) -> None:
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0.5]])
    points = torch.zeros(3, 3).fill_diagonal_(bad)
    assert not points_in_boxes(points, box).any()


def test_negative_sizes_hold_nothing(implementation: str) -> None:
    boxes = torch.tensor([[0.0, 0, 0, -2, 2, 2, 0], [0, 0, 0, 2, 2, -2, 0], [0, 0, 0, 0, 0, 0, 0]])
    assert points_in_boxes(torch.zeros(1, 3), boxes).tolist() == [[False, False, True]]


def test_non_contiguous(implementation: str) -> None:
    points, boxes = scene(100, 9)
    strided = points.t().contiguous().t()[::2], boxes.t().contiguous().t()
    assert torch.equal(points_in_boxes(*strided), points_in_boxes(points[::2], boxes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(implementation: str, dtype: torch.dtype) -> None:
    points, boxes = scene(100, 9, dtype)
    expected = points_in_boxes(points.float(), boxes.float())
    assert torch.equal(points_in_boxes(points, boxes), expected)


def test_threads_do_not_change_the_answer(set_threads: Callable[[int], None]) -> None:
    inputs, results = scene(20_000, 20), []
    for threads in (1, 2):
        set_threads(threads)
        results.append(points_in_boxes(*inputs))
    assert torch.equal(*results)


def test_autocast_changes_nothing(implementation: str) -> None:
    inputs = scene(100, 9)
    expected = points_in_boxes(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(points_in_boxes(*inputs), expected)


def test_no_gradient(implementation: str) -> None:
    points, boxes = scene(5, 3)
    assert not points_in_boxes(points.requires_grad_(), boxes.requires_grad_()).requires_grad


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "points_in_boxes=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.points_in_boxes_reference.default


@pytest.mark.parametrize("name", ["points_in_boxes", "points_in_boxes_reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, requires_grad: bool) -> None:
    points, boxes = scene(20, 4)
    points.requires_grad_(requires_grad)
    torch.library.opcheck(getattr(torch.ops.anybev, name).default, (points, boxes))


def test_refuses_dtypes() -> None:
    with pytest.raises(TypeError, match=r"boxes_lidar must be float32 or .*, got int32"):
        points_in_boxes(torch.zeros(2, 3), torch.zeros(1, 7, dtype=torch.int32))


@pytest.mark.parametrize(
    ("points", "boxes", "message"),
    [
        (torch.zeros(2, 2), torch.zeros(1, 7), r"points_lidar_m must be \(P, >=3\), got \(2, 2\)"),
        (torch.zeros(2, 3), torch.zeros(7), r"boxes_lidar must be \(G, >=7\), got \(7,\)"),
        (torch.zeros(2, 3), torch.zeros(1, 7, device="meta"), "boxes_lidar must be on cpu"),
    ],
)
def test_refuses(points: Tensor, boxes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        points_in_boxes(points, boxes)
