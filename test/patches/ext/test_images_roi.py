"""Region pooling of mmcv._ext against loops over samples, and through mmcv's own wrappers."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext import _sampling, images_roi
from anybev.patches.ext.images_roi import (
    roi_align_backward,
    roi_align_forward,
    roi_align_rotated_backward,
    roi_align_rotated_forward,
    roi_pool_backward,
    roi_pool_forward,
)
from anybev.testing.tolerances import tolerances

BINS = (3, 2)
SCALE = 0.25


def sample(image: Tensor, y: float, x: float) -> list[tuple[int, int, float]]:
    """(row, column, weight) of the pixels a sample of (H, W) takes part of."""
    height, width = image.shape[-2:]
    if y < -1 or y > height or x < -1 or x > width:
        return []
    found = []
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    for row, column in product(
        range(math.floor(y), math.ceil(y) + 1), range(math.floor(x), math.ceil(x) + 1)
    ):
        found.append((row, column, (1 - abs(y - row)) * (1 - abs(x - column))))
    return found


def upright(roi: list[float], aligned: bool) -> tuple[float, float, float, float, float]:
    """Centre y, x, height, width and angle of a region, in pixels of the map."""
    x1, y1, x2, y2 = (v * SCALE - (0.5 if aligned else 0.0) for v in roi[1:])
    height, width = y2 - y1, x2 - x1
    if not aligned:
        height, width = max(height, 1.0), max(width, 1.0)
    return y1 + height / 2, x1 + width / 2, height, width, 0.0


def turned(
    roi: list[float], aligned: bool, clockwise: bool
) -> tuple[float, float, float, float, float]:
    x, y, width, height, angle = roi[1:]
    shift = 0.5 if aligned else 0.0
    height, width = height * SCALE, width * SCALE
    if not aligned:
        height, width = max(height, 1.0), max(width, 1.0)
    return y * SCALE - shift, x * SCALE - shift, height, width, -angle if clockwise else angle


def points(
    box: tuple[float, float, float, float, float], row: int, column: int, ratio: int
) -> list[tuple[float, float]]:
    """Samples of one bin, (y, x), row by row."""
    y0, x0, height, width, angle = box
    ny = ratio or max(0, math.ceil(height / BINS[0]))
    nx = ratio or max(0, math.ceil(width / BINS[1]))
    found = []
    for i, j in product(range(ny), range(nx)):
        y = -height / 2 + (row + (i + 0.5) / ny) * height / BINS[0]
        x = -width / 2 + (column + (j + 0.5) / nx) * width / BINS[1]
        cos, sin = math.cos(angle), math.sin(angle)
        found.append((y * cos - x * sin + y0, y * sin + x * cos + x0))
    return found


def average(images: Tensor, rois: Tensor, boxes: list, ratio: int) -> Tensor:
    """Average pooling, differentiable in the images."""
    regions = []
    for roi, box in zip(rois.tolist(), boxes, strict=True):
        image = images[int(roi[0])]
        for row, column in product(range(BINS[0]), range(BINS[1])):
            total, at = image.new_zeros(len(image)), points(box, row, column, ratio)
            for y, x in at:
                for r, c, weight in sample(image, y, x):
                    total = total + image[:, r, c] * weight
            regions.append(total / max(len(at), 1))
    return torch.stack(regions).view(len(rois), *BINS, -1).permute(0, 3, 1, 2)


def images_and_rois(columns: int) -> tuple[Tensor, Tensor]:
    """Maps of (9, 11), and regions inside, across borders, outside, tiny and turned inside out."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn((2, 3, 9, 11), generator=generator, dtype=torch.float64)
    corners = [
        [0, 3.0, 5.0, 21.0, 30.0],
        [1, -9.0, -7.0, 12.0, 14.0],
        [1, 30.0, 20.0, 60.0, 50.0],
        [0, 200.0, 200.0, 220.0, 230.0],
        [1, 8.0, 8.0, 8.5, 8.25],
        [0, 20.0, 20.0, 10.0, 12.0],
        [1, 0.0, 0.0, 43.9, 35.9],
    ]
    rois = torch.tensor(corners, dtype=torch.float64)
    if columns == 6:
        center, size = (rois[:, 1:3] + rois[:, 3:]) / 2, (rois[:, 3:] - rois[:, 1:3]).abs()
        angle = torch.linspace(-3, 3, len(rois), dtype=torch.float64)[:, None]
        rois = torch.cat((rois[:, :1], center, size, angle), 1)
    return images.requires_grad_(), rois


@pytest.fixture(params=[400_000, 11], ids=["whole", "pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_sampling, "_PIECE_SAMPLES", request.param)
    monkeypatch.setattr(images_roi, "_PIECE_POOLED", request.param)
    return int(request.param)


def check_average(
    forward: object, backward: object, images: Tensor, rois: Tensor, expected: Tensor
) -> None:
    output = torch.full(expected.shape, torch.nan, dtype=torch.float64)
    with torch.no_grad():
        forward(images, rois, output)  # type: ignore[operator]
    torch.testing.assert_close(output, expected.detach(), **tolerances(torch.float64))
    grad = torch.randn(expected.shape, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(expected, images, grad)
    into = torch.ones_like(images)
    with torch.no_grad():
        backward(grad, rois, into)  # type: ignore[operator]
    torch.testing.assert_close(into, wanted + 1, **tolerances(torch.float64))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_align_average_equals_loops(pieces: int, ratio: int, aligned: bool) -> None:
    images, rois = images_and_rois(5)
    boxes = [upright(roi, aligned) for roi in rois.tolist()]
    none = torch.empty(0, dtype=torch.float64)
    check_average(
        lambda i, r, o: roi_align_forward(i, r, o, none, none, *BINS, SCALE, ratio, 1, aligned),
        lambda g, r, o: roi_align_backward(g, r, none, none, o, *BINS, SCALE, ratio, 1, aligned),
        images,
        rois,
        average(images, rois, boxes, ratio),
    )


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_rotated_average_equals_loops(
    pieces: int, ratio: int, aligned: bool, clockwise: bool
) -> None:
    images, rois = images_and_rois(6)
    boxes = [turned(roi, aligned, clockwise) for roi in rois.tolist()]
    rest = (*BINS, SCALE, ratio, aligned, clockwise)
    check_average(
        lambda i, r, o: roi_align_rotated_forward(i, r, o, *rest),
        lambda g, r, o: roi_align_rotated_backward(g, r, o, *rest),
        images,
        rois,
        average(images, rois, boxes, ratio),
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_align_maximum_equals_loops(pieces: int, ratio: int, aligned: bool) -> None:
    images, rois = images_and_rois(5)
    images = images.detach()
    images[:, 2] = 0  # ties: the first sample wins
    shape = (len(rois), 3, *BINS)
    expected = torch.full(shape, torch.finfo(torch.float32).min, dtype=torch.float64)
    where = torch.full((2, *shape), -1.0, dtype=torch.float64)
    for n, c, row, column in product(*map(range, shape)):
        image = images[int(rois[n, 0]), c]
        for y, x in points(upright(rois[n].tolist(), aligned), row, column, ratio):
            value = sum(float(image[r, k]) * w for r, k, w in sample(image, y, x))
            if value > expected[n, c, row, column]:
                expected[n, c, row, column] = value
                where[:, n, c, row, column] = torch.tensor((y, x), dtype=torch.float64)
    output, at_y, at_x = (torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(3))
    rest = (*BINS, SCALE, ratio, 0, aligned)
    roi_align_forward(images, rois, output, at_y, at_x, *rest)
    torch.testing.assert_close(output, expected, **tolerances(torch.float64))
    torch.testing.assert_close(torch.stack((at_y, at_x)), where, **tolerances(torch.float64))

    grad, into = torch.randn(shape, dtype=torch.float64), torch.ones_like(images)
    roi_align_backward(grad, rois, at_y, at_x, into, *rest)
    wanted = torch.ones_like(images)
    for n, c, row, column in product(*map(range, shape)):
        y, x = float(at_y[n, c, row, column]), float(at_x[n, c, row, column])
        if y == -1:
            continue
        for r, k, weight in sample(images, y, x):
            wanted[int(rois[n, 0]), c, r, k] += weight * grad[n, c, row, column]
    torch.testing.assert_close(into, wanted, **tolerances(torch.float64))


def test_pool_equals_loops(pieces: int) -> None:
    images, rois = images_and_rois(5)
    images = images.detach().round()
    shape = (len(rois), 3, *BINS)
    expected = torch.full(shape, 7.0, dtype=torch.float64)
    where = torch.full(shape, 7, dtype=torch.int32)
    for n, c, row, column in product(*map(range, shape)):
        image, (x1, y1, x2, y2) = images[int(rois[n, 0]), c], rois[n, 1:].tolist()
        x1, y1, x2, y2 = x1 * SCALE, y1 * SCALE, (x2 + 1) * SCALE, (y2 + 1) * SCALE
        if x2 <= x1 or y2 <= y1:
            continue  # left as it came in
        top = max(math.floor(y1 + row * (y2 - y1) / BINS[0]), 0)
        bottom = min(math.ceil(y1 + (row + 1) * (y2 - y1) / BINS[0]), image.shape[0])
        left = max(math.floor(x1 + column * (x2 - x1) / BINS[1]), 0)
        right = min(math.ceil(x1 + (column + 1) * (x2 - x1) / BINS[1]), image.shape[1])
        expected[n, c, row, column], where[n, c, row, column] = 0, -1
        for index, (r, k) in enumerate(product(range(top, bottom), range(left, right))):
            if index == 0 or image[r, k] > expected[n, c, row, column]:
                expected[n, c, row, column] = image[r, k]
                where[n, c, row, column] = r * image.shape[1] + k
    output = torch.full(shape, 7.0, dtype=torch.float64)
    argmax = torch.full(shape, 7, dtype=torch.int32)
    roi_pool_forward(images, rois, output, argmax, *BINS, SCALE)
    assert torch.equal(output, expected)
    assert torch.equal(argmax, where)

    grad, into = torch.randn(shape, dtype=torch.float64), torch.ones_like(images)
    roi_pool_backward(grad, rois, argmax, into, *BINS, SCALE)
    wanted = torch.ones_like(images)
    for n, c, row, column in product(*map(range, shape)):
        at = int(argmax[n, c, row, column])
        if at >= 0:
            wanted[int(rois[n, 0]), c].view(-1)[at] += grad[n, c, row, column]
    torch.testing.assert_close(into, wanted, **tolerances(torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lower_precision_stays_near_float64(dtype: torch.dtype) -> None:
    images, rois = (t.detach().to(dtype) for t in images_and_rois(5))
    none, results = torch.empty(0), []
    for kind in (dtype, torch.float64):
        output = torch.empty((len(rois), 3, *BINS), dtype=kind)
        roi_align_forward(
            images.to(kind), rois.to(kind), output, none, none, *BINS, SCALE, 2, 1, True
        )
        results.append(output.double())
    torch.testing.assert_close(*results, **tolerances(dtype))


def test_no_regions_give_nothing_and_no_gradient() -> None:
    images, none = torch.randn(1, 2, 5, 5), torch.empty(0)
    output, rois = torch.empty(0, 2, *BINS), torch.empty(0, 5)
    argmax = torch.empty(0, 2, *BINS, dtype=torch.int32)
    into = torch.zeros_like(images)
    for mode in (0, 1):
        buffers = (output.clone(), output.clone()) if mode == 0 else (none, none)
        roi_align_forward(images, rois, output, *buffers, *BINS, SCALE, 0, mode, True)
        roi_align_backward(output, rois, *buffers, into, *BINS, SCALE, 0, mode, True)
    roi_align_rotated_forward(images, torch.empty(0, 6), output, *BINS, SCALE, 0, True, False)
    roi_align_rotated_backward(output, torch.empty(0, 6), into, *BINS, SCALE, 0, True, False)
    roi_pool_forward(images, rois, output, argmax, *BINS, SCALE)
    roi_pool_backward(output, rois, argmax, into, *BINS, SCALE)
    assert not into.any()


def test_strided_images_give_the_same() -> None:
    images, rois = images_and_rois(5)
    none, results = torch.empty(0), []
    for layout in (torch.contiguous_format, torch.channels_last):
        output = torch.empty((len(rois), 3, *BINS), dtype=torch.float64)
        maps = images.detach().contiguous(memory_format=layout)
        roi_align_forward(maps, rois, output, none, none, *BINS, SCALE, 2, 1, True)
        into = torch.zeros_like(maps)
        roi_align_backward(output, rois, none, none, into, *BINS, SCALE, 2, 1, True)
        results.append((output, into))
    for plain, strided in zip(*results, strict=True):
        assert torch.equal(plain, strided)


def test_gradcheck_through_mmcv(host: list[Outcome]) -> None:
    from mmcv.ops import roi_align, roi_align_rotated, roi_pool

    images, rois = images_and_rois(5)
    rois = rois[(rois[:, 3:] > rois[:, 1:3]).all(1)]  # a compiled mmcv rejects the others
    for mode in ("avg", "max"):
        assert torch.autograd.gradcheck(
            lambda i, mode=mode: roi_align(i, rois, BINS, SCALE, 2, mode, True),
            (images,),
            fast_mode=True,
        )
    assert torch.autograd.gradcheck(
        lambda i: roi_pool(i, rois, BINS, SCALE), (images,), fast_mode=True
    )
    images, rois = images_and_rois(6)
    assert torch.autograd.gradcheck(
        lambda i: roi_align_rotated(i, rois, BINS, SCALE, 0, True, True), (images,), fast_mode=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_maxima_in_lower_precision_are_those_of_the_same_pixels(dtype: torch.dtype) -> None:
    images, rois = (t.detach().to(dtype) for t in images_and_rois(5))
    shape, results = (len(rois), 3, *BINS), []
    for kind in (dtype, torch.float64):
        output, argmax = torch.zeros(shape, dtype=kind), torch.zeros(shape, dtype=torch.int32)
        roi_pool_forward(images.to(kind), rois.to(kind), output, argmax, *BINS, SCALE)
        results.append((output.double(), argmax))
    for low, wide in zip(*results, strict=True):
        assert torch.equal(low, wide)
