"""Rotated suppression against the greedy loop."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anybev.device.ops.box_iou_rotated import box_iou_rotated
from anybev.device.ops.nms_rotated import _CONTRACT, nms_rotated


def greedy(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[int]:
    """One box after the other, from the best down."""
    overlap = box_iou_rotated(boxes, boxes).tolist()
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i)):
        if not any(overlap[k][i] > iou_threshold for k in kept):
            kept.append(i)
    return kept


def scene(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Crowded boxes; scores on a coarse grid, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator) * torch.tensor([12, 12, 5, 2, 6.3])
    scores = (torch.rand(count, generator=generator) * 20).round() / 20
    return (boxes + torch.tensor([40, -30, 0.2, 0.2, 0])).to(dtype), scores.to(dtype)


@pytest.mark.parametrize("count", [0, 1, 2, 150])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7, 1.0])
def test_against_the_loop(implementation: str, count: int, threshold: float) -> None:
    boxes, scores = scene(count)
    kept = nms_rotated(boxes, scores, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == greedy(boxes, scores, threshold)


def test_implementations_agree() -> None:
    boxes, scores = scene(800, seed=1, dtype=torch.float64)
    native = torch.ops.anybev.nms_rotated(boxes, scores, 0.1)
    assert torch.equal(native, torch.ops.anybev.nms_rotated_reference(boxes, scores, 0.1))


def test_a_suppressed_box_suppresses_nothing(implementation: str) -> None:
    # A chain: 0 overlaps 1, 1 overlaps 2, 0 and 2 are apart.
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [2.0, 0, 4, 2, 0], [4.0, 0, 4, 2, 0]])
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.2).tolist() == [0, 2]


def test_long_chain(implementation: str) -> None:
    boxes = torch.tensor([[1.5 * i, 0, 2, 2, 0] for i in range(64)])
    scores = torch.linspace(1, 0, 64)
    assert nms_rotated(boxes, scores, 0.1).tolist() == list(range(0, 64, 2))


def test_thousands_of_boxes() -> None:
    # More than one panel of the CUDA kernel; three copies of every box, far from all others.
    place = torch.arange(1400).repeat(3)
    boxes = torch.stack([place % 40 * 9.0, place // 40 * 9.0], 1)
    boxes = torch.cat([boxes, torch.tensor([[4.0, 2.0, 0.3]]).expand(len(place), 3)], 1)
    order = torch.randperm(len(place), generator=torch.Generator().manual_seed(0))
    scores = torch.empty(len(place))
    scores[order] = torch.linspace(1, 0, len(place))
    seen: set[int] = set()
    expected = [i for i in order.tolist() if not (int(place[i]) in seen or seen.add(int(place[i])))]
    assert nms_rotated(boxes, scores, 0.5).tolist() == expected


def test_equal_scores_rank_by_index(implementation: str) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0]]).repeat(4, 1)
    boxes[2, 0] = 50
    assert nms_rotated(boxes, torch.full((4,), 0.5), 0.5).tolist() == [0, 2]


def test_the_threshold_itself_is_kept(implementation: str) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [0.0, 0, 2, 2, 0]])
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]


def test_nan_boxes_are_left_alone(implementation: str) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0]]).repeat(3, 1)
    boxes[0, 4] = float("nan")
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1]


def test_non_contiguous(implementation: str) -> None:
    boxes, scores = scene(100)
    strided = boxes.t().contiguous().t(), scores.repeat_interleave(2)[::2]
    assert nms_rotated(*strided, 0.2).tolist() == greedy(boxes, scores, 0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(implementation: str, dtype: torch.dtype) -> None:
    boxes, scores = scene(100, dtype=dtype)
    expected = nms_rotated(boxes.float(), scores.float(), 0.2)
    assert torch.equal(nms_rotated(boxes, scores, 0.2), expected)


def test_threads_do_not_change_the_choice(set_threads: Callable[[int], None]) -> None:
    boxes, scores = scene(1500)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(nms_rotated(boxes, scores, 0.3))
    assert torch.equal(*results)


def test_cuda_waits_for_the_device_once(device_waits: Callable[[], int]) -> None:
    boxes, scores = scene(100)
    before = device_waits()
    nms_rotated(boxes, scores, 0.2)
    assert device_waits() - before == 1


def test_autocast_changes_nothing(implementation: str) -> None:
    boxes, scores = scene(100)
    expected = nms_rotated(boxes, scores, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nms_rotated(boxes, scores, 0.2), expected)


def test_no_gradient(implementation: str) -> None:
    boxes, scores = scene(5)
    assert not nms_rotated(boxes.requires_grad_(), scores.requires_grad_(), 0.2).requires_grad


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "nms_rotated=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.nms_rotated_reference.default


@pytest.mark.parametrize("name", ["nms_rotated", "nms_rotated_reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, requires_grad: bool) -> None:
    boxes, scores = scene(20)
    boxes.requires_grad_(requires_grad)
    torch.library.opcheck(getattr(torch.ops.anybev, name).default, (boxes, scores, 0.2))


def test_refuses_dtypes() -> None:
    with pytest.raises(TypeError, match=r"scores must be float32 or .*, got int64"):
        nms_rotated(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), 0.5)


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "message"),
    [
        (torch.zeros(2, 7), torch.zeros(2), 0.5, r"boxes must be \(N, 5\), got \(2, 7\)"),
        (torch.zeros(2, 5), torch.zeros(3), 0.5, r"scores must be \(2,\), got \(3,\)"),
        (torch.zeros(2, 5), torch.zeros(2, device="meta"), 0.5, "scores must be on cpu, got meta"),
        (torch.zeros(2, 5), torch.zeros(2), 1.5, r"iou_threshold must be in \[0, 1\], got 1.5"),
    ],
)
def test_refuses(boxes: Tensor, scores: Tensor, threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nms_rotated(boxes, scores, threshold)
