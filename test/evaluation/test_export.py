"""Export against the devkit's own Box arithmetic."""

import numpy as np
import pytest
import torch
from pyquaternion import Quaternion

from anybev.datasets.sample import Detections
from anybev.evaluation.export import (
    boxes_to_results,
    matrix_to_quaternion,
    quaternion_product,
)
from anybev.testing.nuscenes_tables import CLASSES

RANGES_M = dict.fromkeys(CLASSES, 50.0)


def _info(lidar2ego=None, ego2global=None) -> dict:
    return {
        "token": "frame",
        "lidar_points": {"lidar2ego": np.eye(4) if lidar2ego is None else lidar2ego},
        "ego2global": np.eye(4) if ego2global is None else ego2global,
    }


def _random_pose(rng: np.random.Generator) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Quaternion(rng.normal(size=4)).rotation_matrix
    pose[:3, 3] = rng.uniform(-2, 2, 3)
    return pose


def _found(rows, labels=None, scores=None) -> Detections:
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 9)
    count = len(boxes)
    return Detections(
        boxes,
        torch.linspace(0.9, 0.1, count) if scores is None else torch.tensor(scores),
        torch.zeros(count, dtype=torch.int64) if labels is None else torch.tensor(labels),
    )


def _export(found, info=None, classes=CLASSES, ranges=RANGES_M, **more):
    return boxes_to_results(found, info or _info(), classes=classes, class_range_m=ranges, **more)


def test_boxes_equal_the_devkits_own_transforms():
    from nuscenes.utils.data_classes import Box

    rng = np.random.default_rng(0)
    rows = np.column_stack(
        [
            rng.uniform(-20, 20, (12, 3)),
            rng.uniform(0.5, 5, (12, 3)),
            rng.uniform(-4, 4, 12),
            rng.uniform(-3, 3, (12, 2)),
        ]
    ).astype(np.float32)
    lidar2ego, ego2global = _random_pose(rng), _random_pose(rng)
    records = _export(_found(rows), _info(lidar2ego.tolist(), ego2global.tolist()))
    assert len(records) == 12
    for row, record in zip(rows.astype(np.float64), records, strict=True):
        x, y, z, dx, dy, dz, yaw, vx, vy = row
        box = Box(
            [x, y, z + dz / 2],
            [dy, dx, dz],
            Quaternion(axis=[0, 0, 1], radians=yaw),
            velocity=(vx, vy, 0.0),
        )
        for pose in (lidar2ego, ego2global):
            box.rotate(Quaternion(matrix=pose[:3, :3]))
            box.translate(pose[:3, 3])
        np.testing.assert_allclose(record["translation"], box.center, atol=1e-9)
        np.testing.assert_allclose(record["size"], box.wlh, atol=1e-12)
        np.testing.assert_allclose(record["velocity"], box.velocity[:2], atol=1e-9)
        angle = Quaternion.absolute_distance(Quaternion(record["rotation"]), box.orientation)
        assert angle < 1e-7


@pytest.mark.parametrize("seed", range(8))
def test_quaternions_equal_pyquaternion(seed):
    rng = np.random.default_rng(seed)
    one, two = Quaternion(rng.normal(size=4)).unit, Quaternion(rng.normal(size=4)).unit
    np.testing.assert_allclose(
        quaternion_product(one.elements, two.elements), (one * two).elements, atol=1e-12
    )
    back = matrix_to_quaternion(one.rotation_matrix)
    assert Quaternion.absolute_distance(Quaternion(back), one) < 1e-7


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
def test_half_turns_keep_their_axis(axis):
    back = matrix_to_quaternion(Quaternion(axis=axis, radians=np.pi).rotation_matrix)
    np.testing.assert_allclose(np.abs(back), [0, *axis], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "slow", "fast"),
    [
        ("car", "vehicle.parked", "vehicle.moving"),
        ("bus", "vehicle.stopped", "vehicle.moving"),
        ("motorcycle", "cycle.without_rider", "cycle.with_rider"),
        ("pedestrian", "pedestrian.standing", "pedestrian.moving"),
        ("barrier", "", ""),
    ],
)
def test_attribute_follows_class_and_speed(name, slow, fast):
    label = CLASSES.index(name)
    rows = [[5, 5, 0, 2, 1, 1, 0, 0.1, 0.1], [5, 5, 0, 2, 1, 1, 0, 0.2, 0.2]]
    records = _export(_found(rows, labels=[label, label]))
    assert [record["attribute_name"] for record in records] == [slow, fast]


def test_range_is_measured_from_the_ego_origin():
    lidar2ego = np.eye(4)
    lidar2ego[0, 3] = 2.0
    rows = [[27.9, 0, 0, 1, 1, 1, 0, 0, 0], [28.1, 0, 0, 1, 1, 1, 0, 0, 0]]
    ranges = {**RANGES_M, "traffic_cone": 30.0}
    label = CLASSES.index("traffic_cone")
    records = _export(_found(rows, labels=[label] * 2), _info(lidar2ego), ranges=ranges)
    assert [record["translation"][0] for record in records] == pytest.approx([29.9], abs=1e-5)


def test_best_scores_stay_when_there_are_too_many():
    rows = np.zeros((6, 9), np.float32)
    rows[:, 3:6] = 1
    records = _export(_found(rows, scores=[0.1, 0.6, 0.3, 0.6, 0.9, 0.2]), max_boxes=3)
    assert [round(record["detection_score"], 4) for record in records] == [0.9, 0.6, 0.6]


def test_no_box_gives_no_record():
    assert _export(_found([])) == []


def test_half_precision_and_strided_boxes_are_read():
    boxes = torch.ones(4, 18, dtype=torch.bfloat16)[:, ::2]
    found = Detections(
        boxes, torch.ones(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.int64)
    )
    assert len(_export(found)) == 4


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Detections(torch.zeros(2, 7), torch.zeros(2), torch.zeros(2)), r"must be \(N, 9\), got"),
        (Detections(torch.zeros(2, 9), torch.zeros(3), torch.zeros(2)), r"must be \(2,\) as its"),
        (_found([[float("nan")] + [1.0] * 8]), "must be finite, got 1 of 1 rows"),
        (_found([[1.0] * 9], labels=[10]), r"must be in 0..9, got 10..10"),
    ],
)
def test_bad_boxes_are_named(found, message):
    with pytest.raises(ValueError, match=message) as caught:
        _export(found)
    assert "frame" in str(caught.value)


def test_bad_transform_is_named():
    with pytest.raises(ValueError, match=r"lidar2ego of frame must be a finite \(4, 4\) matrix"):
        _export(_found([]), _info(np.eye(3)))
