"""The compiled resampler against Pillow, pixel for pixel; the matrix against the pixels."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from anybev.datasets.images import ImageChange, resample
from anybev.datasets.images import resample as module_function
from anybev.device.ops import _native

module = sys.modules[module_function.__module__]
compiled = pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))


def _by_hand(image, change):
    picture = Image.fromarray(image).resize(change.resized).crop(change.crop)
    if change.flip:
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    return np.asarray(picture.rotate(change.rotation_deg))


def _random_changes(rng, count, size, factors):
    for _ in range(count):
        factor = rng.uniform(*factors)
        width, height = (max(1, int(side * factor)) for side in size)
        left = int(rng.integers(-width // 2 - 2, width + 2))
        top = int(rng.integers(-height // 2 - 2, height + 2))
        right = left + int(rng.integers(1, width + 9))
        bottom = top + int(rng.integers(1, height + 9))
        rotation_deg = rng.choice([0.0, rng.uniform(-180, 180), rng.uniform(-5.4, 5.4), 90, 180])
        crop = (left, top, right, bottom)
        yield ImageChange(factor, (width, height), crop, bool(rng.integers(2)), float(rotation_deg))


@compiled
@pytest.mark.parametrize(
    ("size", "factors"),
    [
        ((160, 90), (0.3, 0.6)),
        ((161, 93), (0.05, 0.2)),
        ((61, 47), (0.9, 3.0)),
        ((7, 3), (0.2, 4.0)),
        ((1, 1), (1.0, 9.0)),
        ((500, 2), (0.1, 1.0)),
        ((2, 500), (0.1, 1.0)),
        ((60, 90), (0.2, 1.5)),
        ((60, 110), (0.2, 1.5)),
    ],
)
def test_the_compiled_resampler_gives_pillows_pixels(picture, size, factors):
    rng = np.random.default_rng(sum(size))
    image = picture(size[1], size[0])
    for change in _random_changes(rng, 40, size, factors):
        got = resample(image, change, "fast")
        np.testing.assert_array_equal(got, _by_hand(image, change), err_msg=str(change))
        assert got.flags.writeable
        assert got.shape == (*change.shape, 3)


@compiled
def test_uneven_factors_give_pillows_pixels(picture):
    rng = np.random.default_rng(8)
    for _ in range(150):
        width, height, new_width, new_height = (int(n) for n in rng.integers(1, 80, 4))
        change = ImageChange(1.0, (new_width, new_height), (0, 0, new_width, new_height))
        image = picture(height, width)
        got = resample(image, change, "fast")
        np.testing.assert_array_equal(got, _by_hand(image, change), err_msg=f"{image.shape}")


@compiled
@pytest.mark.parametrize("width", [28, 59, 150])
def test_nearly_even_factors_give_pillows_pixels(picture, width):
    rng = np.random.default_rng(width)
    for _ in range(60):
        height = int(rng.integers(width // 2, width * 3 // 2))
        factor_x = rng.uniform(0.8, 1.1)
        factor_y = factor_x / rng.uniform(0.95, 1.2)
        resized = int(width * factor_x), int(height * factor_y)
        change = ImageChange(factor_x, resized, (0, 0, *resized))
        image = picture(height, width)
        got = resample(image, change, "fast")
        np.testing.assert_array_equal(got, _by_hand(image, change), err_msg=f"{height} {change}")


@pytest.mark.parametrize("factor", [15 / 64, 31 / 64, 45 / 64, 1019 / 1024, 11 / 8])
def test_one_factor_stays_compiled_whatever_its_rounding(factor):
    for width in range(2, 90):
        for height in range(1, width * 3 // 2):
            resized = int(width * factor), int(height * factor)
            if min(resized) >= 1:
                change = ImageChange(factor, resized, (0, 0, *resized))
                assert module._is_usual(np.empty((height, width, 3), np.uint8), change)


@compiled
def test_extreme_values_saturate_as_pillows_do():
    # Black and white stripes make the bicubic overshoot on both sides.
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::3], image[::5] = 255, 255
    for factor in (0.31, 0.77, 1.0, 2.6):
        side = int(64 * factor)
        change = ImageChange(factor, (side, side), (0, 0, side, side))
        np.testing.assert_array_equal(resample(image, change, "fast"), _by_hand(image, change))


@compiled
def test_any_memory_layout_is_taken(picture):
    change = ImageChange(0.5, (40, 30), (3, 2, 33, 27), True, 3.0)
    image = picture(60, 80)
    frozen = image.copy()
    frozen.setflags(write=False)
    for view in (frozen, np.asfortranarray(image), picture(60, 160)[:, ::2], image[::-1]):
        np.testing.assert_array_equal(
            resample(view, change, "fast"), _by_hand(np.ascontiguousarray(view), change)
        )


@compiled
def test_the_portable_kernel_gives_the_same_pixels(picture):
    rng = np.random.default_rng(6)
    image = picture(91, 160)
    for change in _random_changes(rng, 30, (160, 91), (0.2, 2.1)):
        change = replace(change, rotation_deg=0.0)
        out = torch.empty((*change.shape, 3), dtype=torch.uint8)
        (width, height), (left, top, *_) = change.resized, change.crop
        where = (height, width, top, left, change.flip)
        torch.ops.anybev_host.resize_crop(torch.from_numpy(image), out, *where, portable=True)
        np.testing.assert_array_equal(out, resample(image, change, "fast"))


@pytest.mark.parametrize("resampler", ["pillow", "fast"])
def test_nothing_is_left_outside_the_picture(picture, resampler):
    for crop in ((200, 0, 210, 10), (0, -30, 10, -20)):
        change = ImageChange(1.0, (80, 60), crop)
        assert not resample(picture(60, 80), change, resampler).any()


def test_pillow_stands_in_for_missing_kernels_and_for_huge_sides(picture, monkeypatch):
    monkeypatch.delenv("ANYBEV_REQUIRE_NATIVE", raising=False)
    change = ImageChange(0.5, (40, 30), (0, 0, 40, 30), False, 2.0)
    expected = _by_hand(picture(60, 80), change)
    called = []
    monkeypatch.setattr(module, "_fast", lambda *a: called.append(a))
    monkeypatch.setattr(module, "_MAX_SIDE", 80)
    np.testing.assert_array_equal(resample(picture(60, 80), change, "fast"), expected)
    monkeypatch.undo()
    monkeypatch.setattr(module, "_fast", lambda *a: called.append(a))
    monkeypatch.setattr(module, "_why_not_compiled", lambda: "no compiler here")
    np.testing.assert_array_equal(resample(picture(60, 80), change, "fast"), expected)
    assert not called
    monkeypatch.setenv("ANYBEV_REQUIRE_NATIVE", "1")
    with pytest.raises(RuntimeError, match="resampler fast would be Pillow's: no compiler here"):
        resample(picture(60, 80), change, "fast")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation_deg", [0.0, 7.0, -4.0])
def test_the_matrix_says_where_a_spot_went(flip, rotation_deg):
    image = np.zeros((180, 320, 3), np.uint8)
    image[100:105, 200:205] = 255
    change = ImageChange(0.5, (160, 90), (20, 15, 150, 85), flip, rotation_deg)
    rows, columns = np.nonzero(resample(image, change)[..., 0] > 40)
    found = np.array([columns.mean(), rows.mean()]) + 0.5
    expected = change.matrix() @ [202.5, 102.5, 9.0, 1.0]
    np.testing.assert_allclose(found, expected[:2], atol=1.0)
    assert expected[2] == 9.0  # depth stays


@compiled
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda op, a: op.resize_crop(a.float(), a, 4, 4, 0, 0, False), TypeError, "image must be"),
        (lambda op, a: op.resize_crop(a[0], a, 4, 4, 0, 0, False), ValueError, r"\(H, W, 3\), got"),
        (
            lambda op, a: op.resize_crop(a, a.mT, 4, 4, 0, 0, False),
            ValueError,
            "out must be a cont",
        ),
        (lambda op, a: op.resize_crop(a, a.clone(), 0, 4, 0, 0, False), ValueError, "got 0 x 4"),
        (
            lambda op, a: op.resize_crop(a[:0], a, 4, 4, 0, 0, False),
            ValueError,
            "sides in 1..32767",
        ),
        (lambda op, a: op.turn(a, a.clone(), [1.0]), ValueError, "matrix must be .* got 1 numbers"),
    ],
)
def test_the_kernels_check_what_they_are_given(call, error, match):
    with pytest.raises(error, match=match):
        call(torch.ops.anybev_host, torch.zeros((8, 8, 3), dtype=torch.uint8))
