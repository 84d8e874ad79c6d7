"""What each camera of a key frame sees of its objects, as monocular detectors are trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from anybev.datasets.nuscenes_tables import NuScenesTables, Record, rotation_matrix

#: mmdetection3d's numbers of nuScenes' attributes; the last one is that of objects without any.
ATTRIBUTES = (
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
    "pedestrian.sitting_lying_down",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
    "None",
)
_SIGNS = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)], np.float64) / 2
_PAIRS = np.array(list(combinations(range(len(_SIGNS)), 2)))


def clipped_extents(corners_px: np.ndarray, seen: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Extents of what a picture holds of the convex hulls of projected corners.

    Args:
        corners_px: (N, 8, 2) columns and rows.
        seen: (N, 8) bool, corners that are in front of the camera; the others do not count.
        size: width and height of the picture.

    Returns:
        (N, 4) left, top, right, bottom; NaN where nothing with an area is in the picture.
    """
    upper = np.asarray(size, np.float64)
    # Edges of the hull are among the segments between any two corners, and the others lie in it.
    start, end = corners_px[:, _PAIRS[:, 0]], corners_px[:, _PAIRS[:, 1]]
    known = (seen[:, _PAIRS[:, 0]] & seen[:, _PAIRS[:, 1]])[:, :, None]
    candidates, valid = [corners_px], [seen]
    for axis in (0, 1):
        for bound in (0.0, upper[axis]):
            with np.errstate(divide="ignore", invalid="ignore"):
                share = (bound - start[..., axis]) / (end[..., axis] - start[..., axis])
                cut = start + share[..., None] * (end - start)
            cut[..., axis] = bound
            candidates.append(cut)
            valid.append(known[..., 0] & (share >= 0) & (share <= 1))
    for corner in ((0.0, 0.0), (upper[0], 0.0), (0.0, upper[1]), (upper[0], upper[1])):
        inside = _hull_holds(corners_px, seen, np.asarray(corner))
        candidates.append(np.broadcast_to(np.asarray(corner), (len(seen), 1, 2)))
        valid.append(inside[:, None])
    points, chosen = np.concatenate(candidates, 1), np.concatenate(valid, 1)
    with np.errstate(invalid="ignore"):
        chosen = chosen & ((points >= 0) & (points <= upper)).all(2)
    low = np.where(chosen[..., None], points, np.inf).min(1)
    high = np.where(chosen[..., None], points, -np.inf).max(1)
    extents = np.concatenate([low, high], 1)
    extents[~(high > low).all(1) | (seen.sum(1) < 3)] = np.nan
    return extents


def _hull_holds(corners_px: np.ndarray, seen: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(N,) whether a point lies in each hull: then no half plane through it is free of corners."""
    away = corners_px - point
    angles = np.sort(np.where(seen, np.arctan2(away[..., 1], away[..., 0]), np.nan), axis=1)
    first = angles[:, :1]
    angles = np.where(np.isnan(angles), angles[:, :1] + 2 * np.pi, angles)  # sorted to the end
    turns = np.concatenate([angles, first + 2 * np.pi], 1)
    gaps: np.ndarray = np.diff(turns, axis=1).max(1)
    return gaps < np.pi


def camera_instances(tables: NuScenesTables, camera: Record, labels: Sequence[int]) -> list[Record]:
    """Objects of the ten classes that a camera's picture holds a part of.

    Boxes are in the camera's frame with x, y, z of their centre, then length, height and width,
    then the yaw about the camera's y axis; all annotations count, whatever their visibility.

    Args:
        tables: where everything about it is.
        camera: record of a key frame's picture.
        labels: of the frame's annotations; negative ones are left out.

    Returns:
        In the order of the annotations, as mmdetection3d's info files have ``cam_instances``.
    """
    annotations = tables.annotations_of[camera["sample_token"]]
    rows = [row for row, label in zip(annotations, labels, strict=True) if label >= 0]
    kept = [label for label in labels if label >= 0]
    if not rows:
        return []
    global2cam = np.linalg.inv(tables.ego2global(camera) @ tables.sensor2ego(camera))
    turn = global2cam[:3, :3]
    intrinsic = tables.get("calibrated_sensor", camera["calibrated_sensor_token"])
    cam2img = np.asarray(intrinsic["camera_intrinsic"], np.float64)
    centres = np.array([row["translation"] for row in rows], np.float64) @ turn.T
    centres += global2cam[:3, 3]
    headings = turn @ np.stack([rotation_matrix(row["rotation"]) for row in rows])
    sizes = np.array([row["size"] for row in rows], np.float64)[
        :, [1, 0, 2]
    ]  # length, width, height
    corners = centres[:, None] + (_SIGNS * sizes[:, None]) @ headings.transpose(0, 2, 1)
    extents = clipped_extents(
        _project(corners, cam2img), corners[..., 2] > 0, (camera["width"], camera["height"])
    )
    centres_px = _project(centres, cam2img)
    found = []
    for i in np.flatnonzero((centres[:, 2] > 0) & ~np.isnan(extents[:, 0])).tolist():
        length, width, height = sizes[i].tolist()
        yaw_rad = -float(np.arctan2(-headings[i, 0, 1], headings[i, 0, 0]))
        velocity = turn @ (tables.velocity_global(rows[i]) * [1, 1, 0])
        found.append(
            {
                "bbox_label": kept[i],
                "bbox_label_3d": kept[i],
                "bbox": extents[i].tolist(),
                "bbox_3d_isvalid": True,
                "bbox_3d": [*centres[i].tolist(), length, height, width, yaw_rad],
                "velocity": velocity[[0, 2]].tolist(),
                "center_2d": centres_px[i].tolist(),
                "depth": float(centres[i, 2]),
                "attr_label": ATTRIBUTES.index(tables.attribute_of(rows[i]) or ATTRIBUTES[-1]),
            }
        )
    return found


def _project(points: Any, cam2img: np.ndarray) -> np.ndarray:
    """(..., 3) in the camera's frame to (..., 2) columns and rows."""
    rays = points @ cam2img.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels: np.ndarray = rays[..., :2] / rays[..., 2:]
    return pixels
