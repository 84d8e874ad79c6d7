"""Lidar depths that go straight into the depth bins."""

import math

import numpy as np
import pytest
import torch

from anybev.models.bevfusion.view_transform import DepthLSSTransform
from anybev.testing.tiny import tiny_batch
from anybev.testing.tiny_cameras import IMAGE_SIZE, VIEW_SETTINGS, tiny_cameras


def _view(**changes: object) -> DepthLSSTransform:
    torch.manual_seed(0)
    return DepthLSSTransform(**(VIEW_SETTINGS | changes))


def test_points_are_counted_in_their_patch_and_nearest_bin() -> None:
    draw = np.random.default_rng(3)
    image = np.where(
        draw.random((2, 3, 1, *IMAGE_SIZE)) < 0.2, draw.uniform(-2, 16, (2, 3, 1, *IMAGE_SIZE)), 0
    ).astype(np.float32)
    counted = np.zeros((2, 3, 24, 4, 8), np.float32)
    for b, n, _, v, u in np.argwhere(image > 0):
        bin_ = round((image[b, n, 0, v, u] - 1.0) / 0.5)
        if 0 <= bin_ < 24:
            counted[b, n, bin_, v * 4 // IMAGE_SIZE[0], u * 8 // IMAGE_SIZE[1]] += 1
    found = _view().points_per_bin(torch.from_numpy(image))
    np.testing.assert_array_equal(found.numpy(), counted)
    assert counted.max() > 1


def test_gain_moves_depth_logits_by_the_points_alone() -> None:
    cameras, batch = tiny_cameras(2, 3), tiny_batch()
    features = torch.randn(2, 3, 6, 4, 8)
    inputs = (features, batch.points_lidar_m, cameras, batch.lidar_aug_matrix)
    plain, moved = _view().eval(), _view(lidar_depth_gain=2.0).eval()
    counts = plain.points_per_bin(plain.depth_image(*inputs[1:]))
    assert counts.any()
    with torch.no_grad():
        difference = moved.lift(*inputs) - plain.lift(*inputs)
    torch.testing.assert_close(difference[:, :, :24], 2.0 * counts.log1p(), rtol=0, atol=1e-5)
    assert not difference[:, :, 24:].any()


def test_one_point_outweighs_the_other_bins() -> None:
    image = torch.zeros(1, 1, 1, *IMAGE_SIZE)
    image[..., 0, 0] = 5.1
    evidence = _view().points_per_bin(image).log1p()[0, 0, :, 0, 0] * 3.0
    weight = evidence.softmax(0)
    assert int(weight.argmax()) == 8  # 1 m + 8 x 0.5 m
    assert float(weight.max()) == pytest.approx(8 / (8 + 23))
    assert math.isclose(float(weight.sum()), 1.0, rel_tol=1e-6)


def test_negative_gain_is_refused() -> None:
    with pytest.raises(ValueError, match="lidar_depth_gain must be 0 or more, got -1"):
        _view(lidar_depth_gain=-1.0)
