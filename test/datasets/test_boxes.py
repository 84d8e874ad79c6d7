import numpy as np
import pytest

from anybev.datasets import boxes as geometry


@pytest.fixture
def boxes():
    rng = np.random.default_rng(3)
    values = rng.uniform(-5, 5, (6, 9))
    values[:, 3:6] = rng.uniform(0.5, 4, (6, 3))
    return values


def _naive_corners(box):
    x, y, z, dx, dy, dz, yaw = box[:7]
    found = []
    for up in (0, dz):
        for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
            along, across = a * dx / 2, b * dy / 2
            found.append(
                [
                    x + along * np.cos(yaw) - across * np.sin(yaw),
                    y + along * np.sin(yaw) + across * np.cos(yaw),
                    z + up,
                ]
            )
    return np.array(found)


def _same_solid(a, b):
    return {tuple(np.round(c, 6)) for c in a} == {tuple(np.round(c, 6)) for c in b}


def test_corners_match_a_plain_loop(boxes):
    np.testing.assert_allclose(
        geometry.corners(boxes), [_naive_corners(box) for box in boxes], atol=1e-12
    )
    np.testing.assert_allclose(
        geometry.corners(boxes).mean(1), geometry.gravity_centres(boxes), atol=1e-12
    )


@pytest.mark.parametrize(
    ("change", "matrix"),
    [
        (lambda b: geometry.rotate(b, 0.7), geometry.rotation_about_z(0.7)),
        (lambda b: geometry.scale(b, 1.3), 1.3 * np.eye(3)),
        (geometry.flip_y, np.diag([1, -1, 1])),
        (geometry.flip_x, np.diag([-1, 1, 1])),
    ],
)
def test_boxes_change_as_their_corners_and_velocities_do(boxes, change, matrix):
    changed = change(boxes)
    for old, new in zip(geometry.corners(boxes), geometry.corners(changed), strict=True):
        assert _same_solid(old @ matrix.T, new)
    np.testing.assert_allclose(changed[:, 7:], boxes[:, 7:] @ matrix[:2, :2].T, atol=1e-12)
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1) @ matrix[:2, :2].T
    new_heading = np.stack([np.cos(changed[:, 6]), np.sin(changed[:, 6])], 1)
    np.testing.assert_allclose(
        new_heading, heading / np.linalg.norm(heading, axis=1, keepdims=True), atol=1e-12
    )


def test_translation_moves_the_corners(boxes):
    offset = np.array([1.0, -2.0, 3.0])
    moved = geometry.corners(geometry.translate(boxes, offset))
    np.testing.assert_allclose(moved, geometry.corners(boxes) + offset, atol=1e-12)


def test_angles_wrap_to_the_half_open_range():
    angles = np.array([np.pi, -np.pi, 3 * np.pi, 0.0, 7.0, -7.0])
    wrapped = geometry.wrap_angle(angles)
    assert ((wrapped >= -np.pi) & (wrapped < np.pi)).all()
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angles), atol=1e-12)


def test_dtype_stays_and_input_is_left_alone(boxes):
    small = boxes.astype(np.float32)
    before = small.copy()
    for changed in (
        geometry.rotate(small, 0.3),
        geometry.scale(small, 2.0),
        geometry.translate(small, np.ones(3)),
        geometry.flip_x(small),
        geometry.flip_y(small),
        geometry.corners(small),
        geometry.gravity_centres(small),
        geometry.wrap_angle(small[:, 6]),
    ):
        assert changed.dtype == np.float32
    np.testing.assert_array_equal(small, before)


def test_no_boxes_give_no_boxes():
    none = np.zeros((0, 9), np.float32)
    assert geometry.corners(none).shape == (0, 8, 3)
    assert geometry.rotate(none, 1.0).shape == (0, 9)
    assert geometry.bev_rectangles(none).shape == (0, 5)
