import logging

import numpy as np
import pytest

from anybev.datasets.infos import SweepInfo
from anybev.datasets.points import far_enough, join_sweeps, move_sweep, read_points


def _file(tmp_path, rows):
    path = tmp_path / "a.bin"
    np.asarray(rows, np.float32).tofile(path)
    return path


def _sweep(yaw_rad=0.1, offset=(1.0, 2.0, 0.0), timestamp_s=9.5):
    """A sweep whose lidar stands at a known pose: p_key = R p_sweep + t."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    sensor2lidar = np.eye(4)
    sensor2lidar[:2, :2] = [[c, -s], [s, c]]
    sensor2lidar[:3, 3] = offset
    return SweepInfo("x", timestamp_s, np.linalg.inv(sensor2lidar)), sensor2lidar


def test_rows_come_back(tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    points, dropped = read_points(_file(tmp_path, rows))
    np.testing.assert_array_equal(points, rows)
    assert (points.dtype, dropped) == (np.float32, 0)
    assert read_points(_file(tmp_path, rows[:4, :4]), load_dim=4).points.shape == (4, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e4, -2e4])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_unusable_points_are_left_out_and_counted(tmp_path, caplog, value, column):
    rows = np.ones((9, 5), np.float32)
    rows[4, column] = value
    with caplog.at_level(logging.WARNING):
        points, dropped = read_points(_file(tmp_path, rows))
    assert (len(points), dropped) == (8, 1)
    assert "left out 1 of 9 points: not finite or beyond 10000 m" in caplog.text


def test_a_nan_intensity_is_unusable_and_a_large_one_is_not(tmp_path):
    rows = np.ones((9, 5), np.float32)
    rows[0, 3], rows[1, 3] = np.nan, 1e6
    assert read_points(_file(tmp_path, rows)).dropped == 1


def test_a_mostly_unusable_file_is_refused(tmp_path):
    rows = np.ones((9, 5), np.float32)
    rows[:5, 0] = 1e5
    with pytest.raises(ValueError, match=r"must hold finite points within 10000 m, got 5 of 9"):
        read_points(_file(tmp_path, rows))


def test_missing_truncated_empty_and_huge_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.bin must be an existing file"):
        read_points(tmp_path / "none.bin")
    path = _file(tmp_path, np.ones(12))
    with pytest.raises(ValueError, match=r"must hold whole rows of 5 .*got 48 bytes \(8 over"):
        read_points(path)
    with pytest.raises(ValueError, match=r"a\.bin must hold at least 1 point\(s\), got none"):
        read_points(_file(tmp_path, []))
    with pytest.raises(ValueError, match=r"a\.bin must hold at most 3 points, got 4"):
        read_points(_file(tmp_path, np.ones((4, 5))), max_points=3)
    assert len(read_points(_file(tmp_path, []), min_points=0).points) == 0


def test_close_points_are_those_inside_the_square():
    points = np.array([[0.9, -0.9, 0], [1.0, 0, 0], [0, -1.0, 0], [0.5, 3, 0]], np.float32)
    np.testing.assert_array_equal(far_enough(points), [False, True, True, True])


def test_the_corrected_transform_is_the_sweeps_pose():
    sweep, sensor2lidar = _sweep()
    points = np.random.default_rng(1).uniform(-30, 30, (20, 5)).astype(np.float32)
    expected = points[:, :3] @ sensor2lidar[:3, :3].T + sensor2lidar[:3, 3]
    moved = move_sweep(points.copy(), sweep, "corrected")
    np.testing.assert_allclose(moved[:, :3], expected, atol=1e-5)
    np.testing.assert_array_equal(moved[:, 3:], points[:, 3:])


def test_the_reference_transform_leaves_out_the_rotation_of_the_offset():
    sweep, sensor2lidar = _sweep(yaw_rad=np.deg2rad(5), offset=(5.0, 0.0, 0.0))
    points = np.zeros((1, 5), np.float32)
    reference = move_sweep(points.copy(), sweep, "reference")[0, :3]
    np.testing.assert_allclose(reference, sensor2lidar[:3, :3].T @ sensor2lidar[:3, 3], atol=1e-6)
    error_m = np.linalg.norm(reference - sensor2lidar[:3, 3])
    assert error_m == pytest.approx(2 * np.sin(np.deg2rad(2.5)) * 5, abs=1e-5)  # 0.44 m


def test_sweeps_follow_the_key_frame_with_their_age():
    key = np.full((3, 5), 7, np.float32)
    sweep, _ = _sweep(timestamp_s=9.5)
    other = np.full((4, 5), 5, np.float32)
    other[0, :2] = 0.2
    joined = join_sweeps(key, [(other, sweep)], 10.0)
    np.testing.assert_allclose(joined[:, 4], [0, 0, 0, 0.5, 0.5, 0.5])
    assert len(join_sweeps(key, [(other, sweep)], 10.0, remove_close=False)) == 7
    assert len(join_sweeps(key, [], 10.0)) == 3
