"""Grid masks against a plain loop over rows and columns with the same draws."""

import numpy as np
import pytest
from PIL import Image

from anybev.datasets.sample import CameraView, Sample, SampleKey
from anybev.datasets.transforms import GridMask


def _sample(epoch=0, shape=(40, 60), count=2):
    white = np.full((*shape, 3), 200, np.uint8)
    views = [CameraView(f"CAM_{i}", white.copy(), np.eye(4), np.eye(4)) for i in range(count)]
    return Sample("t", 0, key=SampleKey(epoch, 0), cameras=views)


def _mask_by_hand(rng, height, width, use_h, use_w, rotate, ratio, mode):
    rng.random()
    rows, columns = int(1.5 * height), int(1.5 * width)
    period = rng.integers(2, min(height, width))
    bar = rng.integers(1, period) if ratio == 1 else int(period * ratio + 0.5)
    bar = min(max(bar, 1), period - 1)
    mask = np.ones((rows, columns), np.uint8)
    first_row, first_column = rng.integers(period), rng.integers(period)
    for i in range(rows // period):
        if use_h:
            mask[period * i + first_row : period * i + first_row + bar] = 0
    for i in range(columns // period):
        if use_w:
            mask[:, period * i + first_column : period * i + first_column + bar] = 0
    mask = np.asarray(Image.fromarray(mask).rotate(rng.integers(rotate)))
    top, left = (rows - height) // 2, (columns - width) // 2
    mask = mask[top : top + height, left : left + width]
    return 1 - mask if mode else mask


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("use_h", "use_w", "rotate", "ratio", "mode"),
    [(1, 1, 1, 0.5, 1), (1, 0, 1, 0.3, 0), (0, 1, 45, 0.5, 0), (1, 1, 360, 1, 0)],
)
def test_the_mask_is_the_references(seed, use_h, use_w, rotate, ratio, mode):
    transform = GridMask(bool(use_h), bool(use_w), 6, rotate, False, ratio, mode, 1.0, True)
    views = transform(_sample(), np.random.default_rng(seed)).cameras
    rng = np.random.default_rng(seed)
    expected = 200 * _mask_by_hand(rng, 40, 60, use_h, use_w, rotate, ratio, mode)
    for view in views:
        assert view.image.dtype == np.uint8
        np.testing.assert_array_equal(view.image, np.repeat(expected[..., None], 3, 2))
    assert 0 < expected.mean() < 200


def test_probability_zero_does_nothing():
    rng = np.random.default_rng(0)
    for epoch in range(9):
        sample = GridMask(True, True, 6, prob=0.0)(_sample(epoch), rng)
        assert all((view.image == 200).all() for view in sample.cameras)


def test_the_probability_grows_with_the_epoch():
    rng = np.random.default_rng(0)

    def share(epoch, **arguments):
        transform = GridMask(True, True, 4, prob=0.8, **arguments)
        masked = [(transform(_sample(epoch), rng).cameras[0].image == 0).any() for _ in range(200)]
        return np.mean(masked)

    assert share(0) == 0
    assert share(2) == pytest.approx(0.4, abs=0.12)
    assert share(4) == pytest.approx(0.8, abs=0.12)
    assert share(0, fixed_prob=True) == pytest.approx(0.8, abs=0.12)


def test_samples_without_pictures_pass():
    sample = GridMask(True, True, 6, fixed_prob=True)(Sample("t", 0), np.random.default_rng(0))
    assert sample.cameras == []


def test_pictures_must_be_alike_and_have_room_for_a_grid():
    transform, rng = GridMask(True, True, 6, fixed_prob=True), np.random.default_rng(0)
    unlike = _sample()
    unlike.cameras[1].image = unlike.cameras[1].image[:20]
    with pytest.raises(ValueError, match="of one size, at least 3 x 3, got 60 x 20, 60 x 40"):
        transform(unlike, rng)
    with pytest.raises(ValueError, match="of one size, at least 3 x 3, got 60 x 2"):
        transform(_sample(shape=(2, 60)), rng)
