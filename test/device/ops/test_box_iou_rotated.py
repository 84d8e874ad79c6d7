"""Rotated overlap against polygon clipping, shapely, and boxes whose overlap is known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anybev.device.ops.box_iou_rotated import _CONTRACT, box_iou_rotated
from anybev.testing.tolerances import tolerances

Point = tuple[float, float]


def corners(box: list[float]) -> list[Point]:
    x, y, dx, dy, yaw = box
    cos, sin = math.cos(yaw), math.sin(yaw)
    local = [(-dx / 2, -dy / 2), (dx / 2, -dy / 2), (dx / 2, dy / 2), (-dx / 2, dy / 2)]
    return [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in local]


def clipped(polygon: list[Point], start: Point, end: Point) -> list[Point]:
    """The part of ``polygon`` left of the line from ``start`` to ``end``."""

    def side(p: Point) -> float:
        return (end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0])

    kept: list[Point] = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        a, b = side(p), side(q)
        if a >= 0:
            kept.append(p)
        if a * b < 0:
            t = a / (a - b)
            kept.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return kept


def area(polygon: list[Point]) -> float:
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return sum(p[0] * q[1] - q[0] * p[1] for p, q in pairs) / 2


def by_clipping(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Shared areas, one pair after the other, by Sutherland and Hodgman's clipping."""
    shared = torch.zeros(len(boxes_a), len(boxes_b), dtype=torch.float64)
    for i, a in enumerate(boxes_a.double().tolist()):
        for j, b in enumerate(boxes_b.double().tolist()):
            # Relative to box b: the far corner products would cost digits.
            polygon = corners([a[0] - b[0], a[1] - b[1], *a[2:]])
            edges = corners([0, 0, *b[2:]])
            for start, end in zip(edges, edges[1:] + edges[:1], strict=True):
                polygon = clipped(polygon, start, end)
            shared[i, j] = area(polygon)
    return shared


def iou_of(shared: Tensor, boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    size_a, size_b = (b[:, 2].double() * b[:, 3].double() for b in (boxes_a, boxes_b))
    return shared / (size_a[:, None] + size_b[None] - shared)


def random_boxes(count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Boxes of one neighbourhood, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    scale = torch.tensor([6.0, 6.0, 8.0, 3.0, 20.0], dtype=torch.float64)
    return (boxes * scale + torch.tensor([42.0, -50.0, 0.05, 0.05, -10.0])).to(dtype)


def related_boxes(boxes: Tensor) -> Tensor:
    """Copies of ``boxes`` that share edges, corners and axes with them."""
    kinds = [boxes.clone() for _ in range(7)]
    kinds[1][:, 4] += torch.pi / 2
    kinds[2][:, 4] += torch.pi
    kinds[3][:, 2:4] *= 0.5
    along = torch.stack([torch.cos(boxes[:, 4]), torch.sin(boxes[:, 4])], 1)
    kinds[4][:, :2] += along * boxes[:, 2:3]
    kinds[5][:, :2] += along * boxes[:, 2:3] / 2
    kinds[6][:, 4] += 1e-7
    return torch.cat(kinds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["iou", "intersection"])
def test_against_clipping(implementation: str, dtype: torch.dtype, mode: str) -> None:
    boxes_a, boxes_b = random_boxes(25, dtype), random_boxes(20, dtype, seed=1)
    boxes_b = torch.cat([boxes_b, related_boxes(boxes_a[:8])])
    expected = by_clipping(boxes_a, boxes_b)
    if mode == "iou":
        expected = iou_of(expected, boxes_a, boxes_b)
    actual = box_iou_rotated(boxes_a, boxes_b, mode=mode)
    assert actual.dtype == dtype
    assert expected.max() > 0.99
    torch.testing.assert_close(actual, expected.to(dtype), **tolerances(dtype))


def test_against_shapely(implementation: str) -> None:
    shapely = pytest.importorskip("shapely")
    boxes_a = random_boxes(40, seed=2)
    boxes_b = torch.cat([random_boxes(40, seed=3), related_boxes(boxes_a[:10])])
    polygons_a, polygons_b = (
        shapely.polygons([corners(b) for b in boxes.tolist()]) for boxes in (boxes_a, boxes_b)
    )
    shared = shapely.area(shapely.intersection(polygons_a[:, None], polygons_b[None]))
    actual = box_iou_rotated(boxes_a, boxes_b, mode="intersection")
    torch.testing.assert_close(actual, torch.from_numpy(shared), **tolerances(torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_box_with_itself_is_exactly_1(implementation: str, dtype: torch.dtype) -> None:
    boxes = random_boxes(60, dtype)
    assert (box_iou_rotated(boxes, boxes).diagonal() == 1).all()


@pytest.mark.parametrize("yaw_rad", [0.0, 0.3, math.pi / 2, 2.0])
@pytest.mark.parametrize(
    ("other", "shared"),
    [
        ([1.0, 0.0, 4.0, 2.0, 0.0], 6.0),  # shifted along
        ([4.0, 0.0, 4.0, 2.0, 0.0], 0.0),  # shares an edge
        ([4.0, 2.0, 4.0, 2.0, 0.0], 0.0),  # shares a corner
        ([0.0, 0.0, 2.0, 1.0, 0.0], 2.0),  # inside
        ([0.0, 0.0, 2.0, 4.0, math.pi / 2], 8.0),  # the same, quarter turned
        ([0.0, 0.0, 9.0, 1.0, math.pi / 2], 2.0),  # a cross
        ([0.0, 0.0, 2.0, 2.0, math.pi / 4], 8 * (math.sqrt(2) - 1)),  # an octagon of two squares
    ],
)
def test_known_overlaps(
    implementation: str, yaw_rad: float, other: list[float], shared: float
) -> None:
    box = [0.0, 0.0, 4.0, 2.0, 0.0]
    if other[4] == math.pi / 4:
        box = [0.0, 0.0, 2.0, 2.0, 0.0]  # an octagon is left of two squares
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    turned = [
        [30 + x * cos - y * sin, -20 + x * sin + y * cos, dx, dy, yaw + yaw_rad]
        for x, y, dx, dy, yaw in (box, other)
    ]
    a, b = torch.tensor(turned, dtype=torch.float64).split(1)
    for first, second in ((a, b), (b, a)):
        actual = box_iou_rotated(first, second, mode="intersection").item()
        assert actual == pytest.approx(shared, rel=1e-9, abs=1e-10)


def test_symmetric(implementation: str) -> None:
    a, b = random_boxes(40, torch.float32), random_boxes(30, torch.float32, seed=1)
    both = box_iou_rotated(a, b), box_iou_rotated(b, a).t()
    torch.testing.assert_close(*both, **tolerances(torch.float32))


def test_far_apart_is_exactly_0(implementation: str) -> None:
    a, b = random_boxes(20, torch.float32), random_boxes(20, torch.float32)
    b[:, 0] += 100
    assert (box_iou_rotated(a, b) == 0).all()


@pytest.mark.parametrize("size", [0.0, -1.0])
def test_boxes_without_area_overlap_nothing(implementation: str, size: float) -> None:
    flat = torch.tensor([[0.0, 0, size, 2, 0.3], [0, 0, 2, size, 0.3]])
    solid = torch.tensor([[0.0, 0, 4, 2, 0]])
    boxes = torch.cat([flat, solid])
    expected = torch.zeros(3, 3)
    expected[2, 2] = 1
    assert torch.equal(box_iou_rotated(boxes, boxes), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", range(5))
def test_non_finite_boxes_give_nan(implementation: str, bad: float, column: int) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0.1], [0.5, 0, 4, 2, 0.1]])
    odd = boxes.clone()
    odd[0, column] = bad
    for actual in (box_iou_rotated(odd, boxes), box_iou_rotated(boxes, odd).t()):
        assert actual[0].isnan().all()
        assert actual[1].isfinite().all()


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1)])
def test_few(implementation: str, n: int, m: int) -> None:
    boxes = random_boxes(3, torch.float32)
    actual = box_iou_rotated(boxes[:n], boxes[:m])
    assert actual.shape == (n, m)
    assert (actual == 1).all()


def test_reference_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "box_iou_rotated=reference")
    a, b = random_boxes(30), random_boxes(20, seed=1)
    whole = box_iou_rotated(a, b)
    monkeypatch.setattr("anybev.device.ops.box_iou_rotated._PAIRS_AT_ONCE", 70)
    assert torch.equal(box_iou_rotated(a, b), whole)


def test_non_contiguous(implementation: str) -> None:
    boxes = random_boxes(30)
    strided = boxes.t().contiguous().t()
    assert not strided.is_contiguous()
    assert torch.equal(box_iou_rotated(strided, strided[::2]), box_iou_rotated(boxes, boxes[::2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(implementation: str, dtype: torch.dtype) -> None:
    a, b = random_boxes(20, dtype), random_boxes(20, dtype, seed=1)
    actual = box_iou_rotated(a, b)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, box_iou_rotated(a.float(), b.float()))
    assert box_iou_rotated(a, b.double()).dtype == torch.float64


def test_threads_do_not_change_a_bit(set_threads: Callable[[int], None]) -> None:
    boxes = random_boxes(300, torch.float32)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(box_iou_rotated(boxes, boxes))
    assert torch.equal(*results)


def test_autocast_changes_nothing(implementation: str) -> None:
    boxes = random_boxes(10, torch.float32)
    expected = box_iou_rotated(boxes, boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(box_iou_rotated(boxes, boxes), expected)


def test_no_gradient(implementation: str) -> None:
    boxes = random_boxes(5).requires_grad_()
    assert not box_iou_rotated(boxes, boxes).requires_grad


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "box_iou_rotated=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.box_iou_rotated_reference.default


@pytest.mark.parametrize("name", ["box_iou_rotated", "box_iou_rotated_reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, requires_grad: bool) -> None:
    boxes = random_boxes(6).requires_grad_(requires_grad)
    torch.library.opcheck(getattr(torch.ops.anybev, name).default, (boxes, random_boxes(4), "iou"))


def test_refuses_dtypes() -> None:
    boxes = torch.zeros(1, 5, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"boxes_b must be float32 or .*, got int64"):
        box_iou_rotated(boxes.float(), boxes)


@pytest.mark.parametrize(
    ("boxes_a", "boxes_b", "message"),
    [
        (torch.zeros(1, 7), torch.zeros(1, 5), r"boxes_a must be \(N, 5\), got \(1, 7\)"),
        (torch.zeros(1, 5), torch.zeros(5), r"boxes_b must be \(M, 5\), got \(5,\)"),
        (torch.zeros(1, 5), torch.zeros(1, 5, device="meta"), "boxes_b must be on cpu, got meta"),
    ],
)
def test_refuses(boxes_a: Tensor, boxes_b: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        box_iou_rotated(boxes_a, boxes_b)


def test_refuses_modes() -> None:
    boxes = torch.zeros(1, 5)
    with pytest.raises(ValueError, match=r"mode must be one of .* got 'iof'"):
        box_iou_rotated(boxes, boxes, mode="iof")  # type: ignore[arg-type]
