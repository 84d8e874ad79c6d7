import numpy as np
import pytest

from anybev.datasets import boxes as geometry
from anybev.datasets.sample import Sample
from anybev.datasets.transforms import (
    BEVFusionGlobalRotScaleTrans,
    BEVFusionRandomFlip3D,
    GlobalRotScaleTrans,
    PointShuffle,
)


@pytest.fixture
def sample():
    rng = np.random.default_rng(5)
    boxes = rng.uniform(-5, 5, (7, 9)).astype(np.float32)
    boxes[:, 3:6] = rng.uniform(1, 4, (7, 3))
    # The corners travel as points: they must stay the boxes' corners.
    points = np.zeros((7 * 8, 5), np.float32)
    points[:, :3] = geometry.corners(boxes).reshape(-1, 3)
    points[:, 3:] = rng.uniform(0, 1, (7 * 8, 2))
    return Sample("t", 0, points, boxes, np.arange(7), np.arange(7))


def _check_together(sample):
    """Boxes and points moved alike."""
    points = sample.points_lidar_m[:, :3].reshape(7, 8, 3)
    corners = geometry.corners(sample.boxes_lidar)
    for moved, expected in zip(points, corners, strict=True):
        distances = np.linalg.norm(moved[:, None] - expected[None], axis=-1)
        assert distances.min(1).max() < 1e-4
    return sample


@pytest.mark.parametrize(
    "transform",
    [
        GlobalRotScaleTrans((-0.785, 0.785), (0.9, 1.1), (0.5, 0.5, 0.5)),
        BEVFusionGlobalRotScaleTrans((-0.785, 0.785), (0.9, 1.1), 0.5),
        BEVFusionRandomFlip3D(),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_points_boxes_and_matrix_agree(sample, transform, seed):
    before = sample.points_lidar_m.copy()
    speed = np.linalg.norm(sample.boxes_lidar[:, 7:], axis=1)
    changed = _check_together(transform(sample, np.random.default_rng(seed)))
    matrix = changed.lidar_aug_matrix
    expected = before[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(changed.points_lidar_m[:, :3], expected, atol=1e-5)
    np.testing.assert_array_equal(changed.points_lidar_m[:, 3:], before[:, 3:])
    factor = np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    new_speed = np.linalg.norm(changed.boxes_lidar[:, 7:], axis=1)
    np.testing.assert_allclose(new_speed, factor * speed, rtol=1e-5)


def test_the_two_orders_differ_in_the_shift(sample):
    """Lidar-only: s R p + t. Fusion: s (R p + t)."""
    arguments = ((0.3, 0.3), (2.0, 2.0), (0.5, 0.5, 0.5))
    matrices = []
    for kind in (GlobalRotScaleTrans, BEVFusionGlobalRotScaleTrans):
        sample.lidar_aug_matrix = np.eye(4)
        kind(*arguments)(sample, np.random.default_rng(1))
        matrices.append(sample.lidar_aug_matrix)
    np.testing.assert_allclose(matrices[0][:3, :3], matrices[1][:3, :3])
    np.testing.assert_allclose(2.0 * matrices[0][:3, 3], matrices[1][:3, 3])
    np.testing.assert_allclose(matrices[0][:3, :3], 2.0 * geometry.rotation_about_z(0.3))


def test_draws_stay_in_their_ranges_and_shifts_spread_as_asked():
    transform = GlobalRotScaleTrans((-0.2, 0.4), (0.9, 1.1), (1.0, 0.0, 2.0))
    drawn = []
    for seed in range(300):
        sample = transform(Sample("t", 0), np.random.default_rng(seed))
        drawn.append(sample.lidar_aug_matrix)
    drawn = np.array(drawn)
    scale = np.cbrt(np.linalg.det(drawn[:, :3, :3]))
    yaw = np.arctan2(drawn[:, 1, 0], drawn[:, 0, 0])
    assert (scale.min() > 0.9) & (scale.max() < 1.1) & (yaw.min() > -0.2) & (yaw.max() < 0.4)
    std = drawn[:, :3, 3].std(0)
    np.testing.assert_allclose(std, [1, 0, 2], atol=0.2)


def test_flips_come_in_all_four_ways():
    found = set()
    for seed in range(40):
        sample = BEVFusionRandomFlip3D()(Sample("t", 0), np.random.default_rng(seed))
        found.add(tuple(np.diag(sample.lidar_aug_matrix)[:2]))
    assert found == {(1, 1), (-1, 1), (1, -1), (-1, -1)}


def test_augmentations_compose_in_the_matrix(sample):
    before = sample.points_lidar_m.copy()
    rng = np.random.default_rng(2)
    BEVFusionGlobalRotScaleTrans((0.5, 0.7), (1.05, 1.1), 0.5)(sample, rng)
    for seed in range(4):
        BEVFusionRandomFlip3D()(sample, np.random.default_rng(seed))
    matrix = sample.lidar_aug_matrix
    expected = before[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(sample.points_lidar_m[:, :3], expected, atol=1e-5)


def test_shuffling_keeps_every_point(sample):
    before = sample.points_lidar_m.copy()
    PointShuffle()(sample, np.random.default_rng(0))
    assert not np.array_equal(sample.points_lidar_m, before)
    key = lambda rows: sorted(map(tuple, rows))  # noqa: E731
    assert key(sample.points_lidar_m) == key(before)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rot_range": (1.0, -1.0)}, r"rot_range must be \(low, high\)"),
        ({"scale_ratio_range": (1.0,)}, r"scale_ratio_range must be \(low, high\)"),
        ({"scale_ratio_range": (0.0, 1.0)}, "scale_ratio_range must be positive"),
        ({"translation_std": (-1.0, 0, 0)}, "translation_std must be 0 or more"),
        ({"shift_height": True}, "shift_height must be False"),
    ],
)
@pytest.mark.parametrize("kind", [GlobalRotScaleTrans, BEVFusionGlobalRotScaleTrans])
def test_wrong_arguments_are_named(kind, arguments, match):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: {match}"):
        kind(**arguments)
