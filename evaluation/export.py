"""Detections to the submission that nuScenes' devkit reads.

Behaviour of mmdetection3d's export: gravity centre, size as (width, length, height), boxes moved
from the lidar to the ego frame, dropped beyond their class's range there, then moved to the global
frame; an attribute follows from class and speed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anybev.datasets.sample import Detections

# Attribute of a slow and of a fast object (mmdetection3d's rule).
ATTRIBUTES: dict[str, tuple[str, str]] = {
    "car": ("vehicle.parked", "vehicle.moving"),
    "truck": ("vehicle.parked", "vehicle.moving"),
    "trailer": ("vehicle.parked", "vehicle.moving"),
    "construction_vehicle": ("vehicle.parked", "vehicle.moving"),
    "bus": ("vehicle.stopped", "vehicle.moving"),
    "motorcycle": ("cycle.without_rider", "cycle.with_rider"),
    "bicycle": ("cycle.without_rider", "cycle.with_rider"),
    "pedestrian": ("pedestrian.standing", "pedestrian.moving"),
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}
MOVING_MPS = 0.2

# Of a submission, unless its ``modality`` says otherwise.
META = {
    "use_camera": False,
    "use_lidar": True,
    "use_radar": False,
    "use_map": False,
    "use_external": False,
}


def submission_meta(modality: Mapping[str, bool] | None = None) -> dict[str, bool]:
    """What a submission says of the sensors used.

    Args:
        modality: entries of ``META`` that differ.

    Raises:
        ValueError: an entry that submissions do not have, or that is neither True nor False.
    """
    given = dict(modality or {})
    if not given.keys() <= META.keys() or not all(isinstance(v, bool) for v in given.values()):
        raise ValueError(
            f"export: modality must hold True or False for some of {', '.join(META)}, got {given}"
        )
    return META | given


def matrix_to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z) of a (3, 3) rotation matrix, float64.

    The row of the largest component is taken, so no angle loses precision.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation, np.float64)
    # Four times the products of the components: any row, normalised, is the quaternion.
    products = np.array(
        [
            [1 + xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz],
        ]
    )
    row: np.ndarray = products[int(np.argmax(np.diagonal(products)))]
    unit: np.ndarray = row / np.sqrt(row @ row)
    return unit


def quaternion_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Hamilton product of quaternions (..., 4) as (w, x, y, z): ``right`` is applied first."""
    w1, x1, y1, z1 = np.moveaxis(np.asarray(left), -1, 0)
    w2, x2, y2, z2 = np.moveaxis(np.asarray(right), -1, 0)
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def _checked_arrays(
    token: str, found: Detections, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes and scores in float64 and labels of one frame, on the host."""
    boxes = found.boxes_lidar.detach().cpu().double().numpy()
    scores = found.scores.detach().cpu().double().numpy()
    labels = found.labels.detach().cpu().numpy()
    count = len(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 9:
        raise ValueError(f"export: boxes_lidar of {token} must be (N, 9), got {boxes.shape}")
    if scores.shape != (count,) or labels.shape != (count,):
        raise ValueError(
            f"export: scores and labels of {token} must be ({count},) as its boxes are, got "
            f"{scores.shape} and {labels.shape}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        bad = int((~np.isfinite(boxes).all(1) | ~np.isfinite(scores)).sum())
        raise ValueError(
            f"export: boxes and scores of {token} must be finite, got {bad} of {count} rows with "
            "NaN or infinity; try an earlier checkpoint: the training diverged"
        )
    if count and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"export: labels of {token} must be in 0..{num_classes - 1}, got "
            f"{labels.min()}..{labels.max()}"
        )
    return boxes, scores, labels


def _transform(info: Mapping[str, Any], token: str, name: str) -> np.ndarray:
    """One (4, 4) transform of an info entry."""
    source = info["lidar_points"] if name == "lidar2ego" else info
    matrix = np.asarray(source[name], np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(
            f"export: {name} of {token} must be a finite (4, 4) matrix, got {matrix.shape}"
        )
    return matrix


def boxes_to_results(
    found: Detections,
    info: Mapping[str, Any],
    *,
    classes: Sequence[str],
    class_range_m: Mapping[str, float],
    max_boxes: int = 500,
) -> list[dict[str, Any]]:
    """One frame's boxes as the devkit's ``sample_result`` records.

    Args:
        found: boxes (N, 9) in the lidar frame: metres, radians, z at the bottom.
        info: v2 info entry of the frame: ``token``, ``lidar_points.lidar2ego``, ``ego2global``.
        classes: name of each label.
        class_range_m: ground distance from the ego origin beyond which a class is dropped.
        max_boxes: at most so many records, those with the highest scores.

    Returns:
        Records in descending order of score.

    Raises:
        ValueError: a shape, a label or a value is out of its contract.
    """
    token = info["token"]
    boxes, scores, labels = _checked_arrays(token, found, len(classes))
    lidar2ego = _transform(info, token, "lidar2ego")
    ego2global = _transform(info, token, "ego2global")

    centre_lidar_m = boxes[:, :3].copy()
    centre_lidar_m[:, 2] += boxes[:, 5] / 2
    centre_ego_m = centre_lidar_m @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
    limit_m = np.array([class_range_m[name] for name in classes])[labels]
    kept = np.flatnonzero(np.hypot(centre_ego_m[:, 0], centre_ego_m[:, 1]) <= limit_m)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:max_boxes]
    centre_m = centre_ego_m[kept] @ ego2global[:3, :3].T + ego2global[:3, 3]
    names = [classes[label] for label in labels[kept]]
    lidar2global = ego2global[:3, :3] @ lidar2ego[:3, :3]
    return _records(token, centre_m, boxes[kept], lidar2global, names, scores[kept])


def _records(
    token: str,
    centre_m: np.ndarray,
    boxes: np.ndarray,
    lidar2global: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray,
) -> list[dict[str, Any]]:
    """Records of boxes whose centres are in the global frame already."""
    half_rad = boxes[:, 6] / 2
    zero = np.zeros_like(half_rad)
    rotation = quaternion_product(
        matrix_to_quaternion(lidar2global),
        np.stack([np.cos(half_rad), zero, zero, np.sin(half_rad)], axis=-1),
    )
    velocity_mps = boxes[:, 7:9] @ lidar2global[:2, :2].T
    fast = np.hypot(velocity_mps[:, 0], velocity_mps[:, 1]) > MOVING_MPS
    columns = (centre_m, boxes[:, [4, 3, 5]], rotation, velocity_mps, scores)
    return [
        {
            "sample_token": token,
            "translation": translation,
            "size": size,
            "rotation": turn,
            "velocity": velocity,
            "detection_name": name,
            "detection_score": score,
            "attribute_name": ATTRIBUTES[name][int(is_fast)],
        }
        for translation, size, turn, velocity, score, name, is_fast in zip(
            *(column.tolist() for column in columns), names, fast, strict=True
        )
    ]
