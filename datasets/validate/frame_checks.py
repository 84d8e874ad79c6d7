"""Checks of a frame that open no file: time, calibration, boxes."""

from __future__ import annotations

import math
import re

import numpy as np

from anybev.datasets.validate.findings import Log
from anybev.datasets.validate.frames import Camera, Frame, in_categories

ROTATION_TOLERANCE = 1e-3
CAMERA_GAP_S = 0.1
FILE_GAP_S = 0.1
FAR_M = 300.0
SIZE_M = (0.05, 40.0)
FAST_MPS = 60.0
#: Share of boxes without velocity: objects that are seen in one key frame alone have none.
UNKNOWN_VELOCITY = 0.3
_STAMP = re.compile(r"__(\d{16})\.")
#: Where nuScenes' cameras look, degrees to the left of the vehicle's front.
AZIMUTH_DEG = {
    "CAM_FRONT": 0.0,
    "CAM_FRONT_LEFT": 55.0,
    "CAM_FRONT_RIGHT": -55.0,
    "CAM_BACK": 180.0,
    "CAM_BACK_LEFT": 110.0,
    "CAM_BACK_RIGHT": -110.0,
}
_OFF_DEG = 40.0
_TILT_DEG = 45.0


def check_frame(frame: Frame, log: Log) -> None:
    """Everything that the frame's own numbers tell."""
    _check_time(frame, log)
    _check_poses(frame, log)
    for camera in frame.cameras:
        _check_camera(frame, camera, log)
    _check_boxes(frame, log)


def _check_time(frame: Frame, log: Log) -> None:
    stamp = _STAMP.search(frame.lidar_path)
    if stamp:
        log.look("time.files")
        named = int(stamp.group(1)) / 1e6
        if abs(named - frame.timestamp_s) > FILE_GAP_S:
            log.find(
                "time.files",
                frame.where,
                f"timestamp {frame.timestamp_s:.6f}, but {named:.6f} in the name of the lidar file",
            )
    latest = frame.timestamp_s
    for i, sweep in enumerate(frame.sweeps):
        log.look("time.sweeps")
        if sweep.timestamp_s >= latest:
            what = "the key frame's" if i == 0 else "that of the sweep before it in the list"
            log.find(
                "time.sweeps",
                f"{frame.where}, sweep {i}",
                f"timestamp {sweep.timestamp_s:.6f} must be before {what}, got {latest:.6f}",
            )
        latest = min(latest, sweep.timestamp_s)
    for camera in frame.cameras:
        if camera.timestamp_s is None:
            continue
        log.look("time.cameras")
        gap = camera.timestamp_s - frame.timestamp_s
        if abs(gap) > CAMERA_GAP_S:
            log.find(
                "time.cameras",
                f"{frame.where}, {camera.channel}",
                f"{gap:+.3f} s from the lidar, must be within {CAMERA_GAP_S:g} s",
            )


def not_rigid(matrix: np.ndarray) -> str:
    """Why a (4, 4) matrix is no rotation with a translation, or ""."""
    rotation = matrix[:3, :3]
    determinant = float(np.linalg.det(rotation))
    if abs(determinant) < ROTATION_TOLERANCE:
        return "its rotation is singular"
    if determinant < 0:
        return "it mirrors: its rotation has determinant -1"
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if off > ROTATION_TOLERANCE:
        return f"its upper left 3 x 3 is no rotation, off by {off:.3g}"
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        return f"its last row must be 0, 0, 0, 1, got {matrix[3].tolist()}"
    return ""


def _check_poses(frame: Frame, log: Log) -> None:
    for name, matrix in (("lidar2ego", frame.lidar2ego), ("ego2global", frame.ego2global)):
        log.look("calibration.poses")
        problem = not_rigid(matrix)
        if problem:
            log.find("calibration.poses", frame.where, f"{name}: {problem}")


def usable(camera: Camera) -> bool:
    """Whether the camera can be projected into."""
    k = camera.cam2img
    return bool(
        k[0, 0] > 0 and k[1, 1] > 0 and np.linalg.cond(k) < 1e9 and not not_rigid(camera.lidar2cam)
    )


def _check_camera(frame: Frame, camera: Camera, log: Log) -> None:
    where, k = f"{frame.where}, {camera.channel}", camera.cam2img
    log.look("calibration.intrinsics")
    if not (k[0, 0] > 0 and k[1, 1] > 0 and np.linalg.cond(k) < 1e9):
        log.find(
            "calibration.intrinsics",
            where,
            f"cam2img must have positive focal lengths and an inverse, got {k.tolist()}",
        )
    log.look("calibration.poses")
    problem = not_rigid(camera.lidar2cam)
    if problem:
        log.find("calibration.poses", where, f"lidar2cam: {problem}")
        return
    if camera.channel not in AZIMUTH_DEG or not_rigid(frame.lidar2ego):
        return
    log.look("calibration.direction")
    cam2ego = frame.lidar2ego[:3, :3] @ camera.lidar2cam[:3, :3].T
    forward, down = cam2ego[:, 2], cam2ego[:, 1]
    azimuth = math.degrees(math.atan2(forward[1], forward[0]))
    off = (azimuth - AZIMUTH_DEG[camera.channel] + 180) % 360 - 180
    if abs(off) > _OFF_DEG or -down[2] < math.cos(math.radians(_TILT_DEG)):
        log.find(
            "calibration.direction",
            where,
            f"looks {azimuth:.0f} degrees to the left with its up axis "
            f"{math.degrees(math.acos(float(np.clip(-down[2], -1, 1)))):.0f} degrees off; expected "
            f"{AZIMUTH_DEG[camera.channel]:.0f} and 0: swapped cameras, or a matrix inverted?",
        )


def _check_boxes(frame: Frame, log: Log) -> None:
    boxes, count = frame.boxes, len(frame.boxes)
    for key in ("boxes.size", "boxes.large", "boxes.range", "boxes.label"):
        log.look(key, count)
    positive = (boxes[:, 3:6] > 0).all(1) & np.isfinite(boxes[:, 3:6]).all(1)
    likely = (boxes[:, 3:6] >= SIZE_M[0]).all(1) & (boxes[:, 3:6] <= SIZE_M[1]).all(1)
    near = (np.abs(boxes[:, :3]) <= FAR_M).all(1) & np.isfinite(boxes[:, 6])
    known = in_categories(frame)
    for i in np.flatnonzero(~positive):
        log.find("boxes.size", _box(frame, i), f"size {_show(boxes[i, 3:6])} m")
    for i in np.flatnonzero(positive & ~likely):
        log.find("boxes.large", _box(frame, i), f"size {_show(boxes[i, 3:6])} m")
    for i in np.flatnonzero(~near):
        what = f"centre {_show(boxes[i, :3])} m, yaw {boxes[i, 6]:.3g}; not in the lidar frame?"
        log.find("boxes.range", _box(frame, i), what)
    for i in np.flatnonzero(~known):
        log.find("boxes.label", _box(frame, i), f"label {frame.labels[i]} is no category's")
    speeds = np.hypot(frame.velocities[:, 0], frame.velocities[:, 1])
    log.look("boxes.velocity", count)
    for i in np.flatnonzero((speeds > FAST_MPS) | np.isinf(frame.velocities).any(1)):
        log.find("boxes.velocity", _box(frame, i), f"velocity {_show(frame.velocities[i])} m/s")


def check_velocities(source: str, frames: list[Frame], log: Log) -> None:
    """A few objects have no velocity; many without one means that it was not computed."""
    unknown = sum(int(np.isnan(frame.velocities).any(1).sum()) for frame in frames)
    boxes = sum(len(frame.boxes) for frame in frames)
    if unknown > UNKNOWN_VELOCITY * boxes:
        log.find("boxes.velocity", source, f"{unknown} of {boxes} boxes have none (NaN)")


def _box(frame: Frame, index: np.integer) -> str:
    return f"{frame.where}, box {index}"


def _show(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
