"""The judge is judged first: perfect detections score near 1, spoilt ones fall as they should."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from anybev.datasets.sample import Detections
from anybev.testing.nuscenes_tables import CLASSES, perfect_detections

ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")


def _spoil(found: dict, change: Callable[[torch.Tensor], None]) -> dict[str, Detections]:
    """The same detections after ``change`` edited each frame's boxes in place."""
    spoilt = {}
    for token, frame in found.items():
        boxes = frame.boxes_lidar.clone()
        change(boxes)
        spoilt[token] = replace(frame, boxes_lidar=boxes)
    return spoilt


def _shift(metres: float) -> Callable[[torch.Tensor], None]:
    def change(boxes: torch.Tensor) -> None:
        boxes[:, 0] += metres * 0.6
        boxes[:, 1] += metres * 0.8

    return change


def _turn(radians: float) -> Callable[[torch.Tensor], None]:
    def change(boxes: torch.Tensor) -> None:
        boxes[:, 6] += radians

    return change


@pytest.fixture(scope="module")
def perfect(tiny_set) -> dict[str, Detections]:
    return perfect_detections(tiny_set[1])


def test_perfect_detections_score_one(score, perfect):
    metrics = score(perfect)
    assert metrics.nds == pytest.approx(1.0, abs=1e-5)
    assert metrics.mean_ap == pytest.approx(1.0, abs=1e-9)
    assert all(metrics.tp_errors[name] < 1e-5 for name in ERRORS)
    assert set(metrics.per_class_ap) == set(CLASSES)
    assert metrics.num_frames == 3
    assert metrics.note == ""


@pytest.mark.parametrize(
    ("metres", "passed", "nds"),
    # NDS = (5 mAP + sum of (1 - error), none below 0) / 10 with ATE equal to the shift.
    [(0.7, (1.0, 2.0, 4.0), (5 * 0.75 + 0.3 + 4) / 10), (1.5, (2.0, 4.0), (5 * 0.5 + 4) / 10)],
)
def test_shifted_boxes_miss_the_tight_thresholds(score, perfect, metres, passed, nds):
    metrics = score(_spoil(perfect, _shift(metres)))
    for by_distance in metrics.per_class_ap_by_threshold.values():
        for distance, ap in by_distance.items():
            assert ap == pytest.approx(1.0 if distance in passed else 0.0)
    assert metrics.mean_ap == pytest.approx(len(passed) / 4)
    assert metrics.tp_errors["mATE"] == pytest.approx(metres, abs=1e-5)
    assert metrics.nds == pytest.approx(nds, abs=1e-5)


def test_far_off_boxes_score_nothing(score, perfect):
    metrics = score(_spoil(perfect, _shift(5.0)))
    assert metrics.mean_ap == 0.0
    assert metrics.nds == 0.0
    assert all(metrics.tp_errors[name] == 1.0 for name in ERRORS)


def test_height_does_not_count(score, perfect):
    def lift(boxes: torch.Tensor) -> None:
        boxes[:, 2] += 3

    assert score(_spoil(perfect, lift)).nds == pytest.approx(1.0, abs=1e-5)


def test_mislabelled_classes_fall_and_no_other(score, perfect):
    swap = torch.arange(len(CLASSES))
    swap[0], swap[1] = 1, 0
    metrics = score({t: replace(f, labels=swap[f.labels]) for t, f in perfect.items()})
    assert metrics.per_class_ap["car"] == metrics.per_class_ap["truck"] == 0.0
    others = [ap for name, ap in metrics.per_class_ap.items() if name not in ("car", "truck")]
    assert others == pytest.approx([1.0] * 8)
    assert metrics.mean_ap == pytest.approx(0.8)


def test_turned_boxes_cost_orientation_alone(score, perfect):
    metrics = score(_spoil(perfect, _turn(0.3)))
    assert metrics.mean_ap == pytest.approx(1.0)
    assert metrics.tp_errors["mAOE"] == pytest.approx(0.3, abs=1e-5)
    assert metrics.nds == pytest.approx(0.97, abs=1e-5)


def test_reversed_barriers_are_right(score, perfect):
    errors = score(_spoil(perfect, _turn(math.pi))).per_class_tp
    assert errors["barrier"]["AOE"] == pytest.approx(0.0, abs=1e-4)
    assert errors["car"]["AOE"] == pytest.approx(math.pi, abs=1e-4)
    assert math.isnan(errors["traffic_cone"]["AOE"])


def test_wrong_velocity_costs_velocity_alone(score, perfect):
    def faster(boxes: torch.Tensor) -> None:
        boxes[:, 7:9] *= 1 + 0.1 / boxes[:, 7:9].norm(dim=1, keepdim=True).clamp_min(1e-9)
        boxes[boxes[:, 7:9].norm(dim=1) < 1e-3, 7] = 0.1

    metrics = score(_spoil(perfect, faster))
    assert metrics.tp_errors["mAVE"] == pytest.approx(0.1, abs=1e-5)
    assert metrics.tp_errors["mAAE"] == 0.0
    assert metrics.nds == pytest.approx(0.99, abs=1e-5)


def test_objects_taken_for_still_cost_velocity_and_attribute(score, perfect):
    def stop(boxes: torch.Tensor) -> None:
        boxes[:, 7:9] = 0

    metrics = score(_spoil(perfect, stop))
    # Objects move at 3 m/s or not at all, so both errors count the same matches.
    for name in ("car", "pedestrian", "bicycle"):
        errors = metrics.per_class_tp[name]
        assert errors["AVE"] > 0.1
        assert errors["AAE"] == pytest.approx(errors["AVE"] / 3, abs=1e-4)
    assert metrics.mean_ap == pytest.approx(1.0)


def test_wrong_size_costs_scale_alone(score, perfect):
    def shrink(boxes: torch.Tensor) -> None:
        boxes[:, 2] += boxes[:, 5] / 4
        boxes[:, 3:6] /= 2

    metrics = score(_spoil(perfect, shrink))
    assert metrics.tp_errors["mASE"] == pytest.approx(1 - 1 / 8, abs=1e-5)
    assert metrics.tp_errors["mATE"] < 1e-5


def test_length_and_width_are_not_swapped(score, perfect):
    def swap(boxes: torch.Tensor) -> None:
        boxes[:, [3, 4]] = boxes[:, [4, 3]]

    assert score(_spoil(perfect, swap)).per_class_tp["bus"]["ASE"] > 0.5


def test_half_the_objects_give_half_the_recall(score, perfect):
    halved = {
        token: Detections(f.boxes_lidar[::2], f.scores[::2], f.labels[::2])
        for token, f in perfect.items()
    }
    metrics = score(halved)
    # Recalls 0.11 .. 0.50 of 0.11 .. 1.00 keep full precision.
    assert metrics.per_class_ap["bus"] == pytest.approx(40 / 90, abs=1e-9)


def test_confident_ghosts_halve_precision(score, perfect):
    def ghosts(frame: Detections) -> Detections:
        moved = frame.boxes_lidar.clone()
        moved[:, 0] += 4.5
        return Detections(
            torch.cat([frame.boxes_lidar, moved]),
            torch.cat([frame.scores, frame.scores + 0.05]),
            frame.labels.repeat(2),
        )

    metrics = score({token: ghosts(frame) for token, frame in perfect.items()})
    assert 0.2 < metrics.mean_ap < 0.75
    assert metrics.tp_errors["mATE"] < 1e-5


def test_objects_without_returns_do_not_count(score, tiny_set, perfect):
    infos = [
        {**info, "instances": [{**thing, "bbox_3d_isvalid": True} for thing in info["instances"]]}
        for info in tiny_set[1]
    ]
    # A detector that sees them is charged with false positives.
    assert score(perfect_detections(infos)).mean_ap < score(perfect).mean_ap
