"""Centre heatmaps against a loop over the boxes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.device.ops.draw_heatmap import _CONTRACT, draw_heatmap
from anybev.testing.tolerances import tolerances

SETTING: dict[str, Any] = {
    "batch_size": 2,
    "num_classes": 3,
    "grid": (40, 30),
    "cell_size_m": (0.6, 0.6),
    "origin_m": (-12.0, -9.0),
}


def radius_by_formula(length: float, width: float, overlap: float) -> float:
    """The three roots, each over 2, in float32."""
    o, one, two, four, sixteen = (np.float32(v) for v in (overlap, 1, 2, 4, 16))
    s = np.float32(length + width)
    a = np.float32(np.float32(width) * np.float32(length))
    r1 = (s + np.sqrt(s * s - four * a * (one - o) / (one + o))) / two
    r2 = (two * s + np.sqrt(four * s * s - sixteen * (one - o) * a)) / two
    r3 = (-two * o * s + np.sqrt(four * o * o * s * s - sixteen * o * (o - one) * a)) / two
    return float(min(r1, r2, r3))


def loop(boxes: Tensor, labels: Tensor, samples: Tensor, **setting: Any) -> Tensor:
    """One box after the other, one cell after the other, in float64."""
    setting = {"overlap": 0.1, "min_radius": 2, **setting}
    nx, ny = setting["grid"]
    out = np.zeros((setting["batch_size"], setting["num_classes"], nx, ny))
    cell = np.array(setting["cell_size_m"], np.float32)
    low = np.array(setting["origin_m"], np.float32)
    for box, label, sample in zip(boxes.numpy(), labels.tolist(), samples.tolist(), strict=True):
        length, width = box[3:5] / cell
        centre = np.trunc((box[:2] - low) / cell)
        if not (length > 0 and width > 0 and 0 <= label < setting["num_classes"]):
            continue
        if not (0 <= centre[0] < nx and 0 <= centre[1] < ny):
            continue
        radius = max(
            setting["min_radius"], int(radius_by_formula(length, width, setting["overlap"]))
        )
        sigma = (2 * radius + 1) / 6
        cx, cy = int(centre[0]), int(centre[1])
        for x in range(max(cx - radius, 0), min(cx + radius, nx - 1) + 1):
            for y in range(max(cy - radius, 0), min(cy + radius, ny - 1) + 1):
                value = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma * sigma))
                if value < np.finfo(np.float64).eps:
                    value = 0.0
                out[sample, label, x, y] = max(out[sample, label, x, y], value)
    return torch.from_numpy(out).float()


def scene(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in and around the grid, some without a class, some without a size."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randn(count, 9, generator=generator) * 8
    boxes[:, 3:6] = torch.rand(count, 3, generator=generator) * 12
    boxes[::7, 3] = 0
    boxes[::11, 4] = -1
    labels = torch.randint(-1, 4, (count,), generator=generator)
    samples = torch.randint(0, 2, (count,), generator=generator)
    return boxes, labels, samples


def one_box(x: float, y: float, length: float = 4.0, width: float = 2.0) -> Tensor:
    return torch.tensor([[x, y, 0, length, width, 1.5, 0.3, 0, 0]])


ZERO = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize("count", [0, 1, 60])
@pytest.mark.parametrize("change", [{}, {"overlap": 0.5, "min_radius": 0}, {"grid": (7, 33)}])
def test_against_the_loop(implementation: str, count: int, change: dict) -> None:
    inputs, setting = scene(count), {**SETTING, **change}
    actual = draw_heatmap(*inputs, **setting)
    assert actual.shape == (2, 3, *setting["grid"])
    torch.testing.assert_close(actual, loop(*inputs, **setting), **tolerances(torch.float32))


def test_implementations_agree() -> None:
    boxes, labels, samples = scene(300, seed=1)
    arguments = (boxes, labels, samples, 2, 3, [40, 30], [0.6, 0.5], [-12.0, -9.0], 0.1, 2)
    native = torch.ops.anybev.draw_heatmap(*arguments)
    reference = torch.ops.anybev.draw_heatmap_reference(*arguments)
    torch.testing.assert_close(native, reference, **tolerances(torch.float32))
    assert torch.equal(native == 1, reference == 1)


def test_peak_is_at_x_then_y(implementation: str) -> None:
    nuscenes = {**SETTING, "grid": (180, 180), "origin_m": (-54.0, -54.0)}
    heatmap = draw_heatmap(one_box(10.0, -20.0), ZERO + 1, ZERO, **nuscenes)
    assert (heatmap == 1).nonzero().tolist() == [[0, 1, 106, 56]]
    assert heatmap[0, 1, 107, 56] == heatmap[0, 1, 106, 57]


def test_centre_just_below_the_origin_falls_into_cell_0(implementation: str) -> None:
    heatmap = draw_heatmap(one_box(-12.5, -9.5), ZERO, ZERO, **SETTING)
    assert heatmap[0, 0, 0, 0] == 1
    assert draw_heatmap(one_box(-12.7, 0.0), ZERO, ZERO, **SETTING).sum() == 0
    assert draw_heatmap(one_box(12.1, 0.0), ZERO, ZERO, **SETTING).sum() == 0


@pytest.mark.parametrize("column", [0, 1, 3, 4])
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_boxes_that_cannot_be_drawn_are_skipped(
    implementation: str, column: int, bad: float
) -> None:
    box = one_box(0, 0)
    box[0, column] = bad
    assert draw_heatmap(box, ZERO, ZERO, **SETTING).sum() == 0


@pytest.mark.parametrize("length", [1e4, 1e30, float("inf")])
def test_huge_boxes_cover_the_grid(implementation: str, length: float) -> None:
    heatmap = draw_heatmap(one_box(0, 0, length, length), ZERO, ZERO, **SETTING)
    assert (heatmap[0, 0] > 0.9).all()


def test_non_contiguous(implementation: str) -> None:
    boxes, labels, samples = scene(60)
    strided = boxes.t().contiguous().t(), labels.repeat_interleave(2)[::2], samples
    assert not strided[0].is_contiguous()
    assert torch.equal(draw_heatmap(*strided, **SETTING), draw_heatmap(*scene(60), **SETTING))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_computed_in_float32(implementation: str, dtype: torch.dtype) -> None:
    boxes, labels, samples = scene(60)
    boxes = boxes.to(dtype)
    actual = draw_heatmap(boxes, labels, samples, **SETTING)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, draw_heatmap(boxes.float(), labels, samples, **SETTING))


def test_threads_do_not_change_a_bit(set_threads: Callable[[int], None]) -> None:
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(draw_heatmap(*scene(200), **SETTING))
    assert torch.equal(*results)


def test_autocast_changes_nothing(implementation: str) -> None:
    expected = draw_heatmap(*scene(20), **SETTING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(draw_heatmap(*scene(20), **SETTING), expected)


def test_no_gradient(implementation: str) -> None:
    boxes, labels, samples = scene(20)
    assert not draw_heatmap(boxes.requires_grad_(), labels, samples, **SETTING).requires_grad


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "draw_heatmap=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.draw_heatmap_reference.default


@pytest.mark.parametrize("name", ["draw_heatmap", "draw_heatmap_reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, requires_grad: bool) -> None:
    boxes, labels, samples = scene(20)
    arguments = (boxes.requires_grad_(requires_grad), labels, samples, 2, 3)
    setting = ([40, 30], [0.6, 0.6], [-12.0, -9.0], 0.1, 2)
    torch.library.opcheck(getattr(torch.ops.anybev, name).default, (*arguments, *setting))


@pytest.mark.parametrize("index", [-1, 2])
def test_refuses_a_sample_outside_the_batch(
    implementation: str, emulated: bool, index: int
) -> None:
    if emulated and implementation == "native":  # CUDA kernels do not wait for what they find
        boxes, samples = one_box(0, 0).repeat(2, 1), torch.tensor([0, index])
        assert draw_heatmap(boxes, ZERO.repeat(2), samples, **SETTING).isnan().all()
        return
    with pytest.raises(ValueError, match=r"sample_index must be in \[0, 2\), got"):
        draw_heatmap(one_box(0, 0), ZERO, ZERO + index, **SETTING)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes_lidar": torch.zeros(1, 9, dtype=torch.int32)}, "boxes_lidar must be float32 or"),
        ({"labels": torch.zeros(1)}, "labels must be int64, got float32"),
        ({"sample_index": torch.zeros(1, dtype=torch.int32)}, "sample_index must be int64"),
    ],
)
def test_refuses_dtypes(change: dict, message: str) -> None:
    arguments = {"boxes_lidar": one_box(0, 0), "labels": ZERO, "sample_index": ZERO, **change}
    with pytest.raises(TypeError, match=message):
        draw_heatmap(**arguments, **SETTING)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes_lidar": torch.zeros(1, 6)}, r"boxes_lidar must be \(G, >=7\), got \(1, 6\)"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"labels must be \(1,\), got \(2,\)"),
        ({"sample_index": ZERO.to("meta")}, "sample_index must be on cpu, got meta"),
        ({"grid": (0, 4)}, "grid must be 2 positive numbers"),
        ({"cell_size_m": (0.6,)}, "cell_size_m must be 2 positive numbers"),
        ({"origin_m": (0, 0, 0)}, "origin_m must be 2 numbers"),
        ({"batch_size": 0}, "batch_size and num_classes must be at least 1, got 0 and 3"),
        ({"overlap": 1.0}, "overlap must be in"),
        ({"min_radius": -1}, "min_radius at least 0, got 0.1 and -1"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    arguments = {"boxes_lidar": one_box(0, 0), "labels": ZERO, "sample_index": ZERO, **SETTING}
    with pytest.raises(ValueError, match=message):
        draw_heatmap(**{**arguments, **change})
