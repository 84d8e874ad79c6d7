"""Frames of info files as arrays, read so that a defect is a finding and not an exception."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anybev.datasets.infos import IGNORED
from anybev.datasets.plain_numbers import HUGE, as_float
from anybev.datasets.validate.findings import Log


@dataclass(frozen=True)
class Sweep:
    """An earlier sweep: its path as written, and when it was taken."""

    path: str
    timestamp_s: float


@dataclass(frozen=True)
class Camera:
    """A camera of a frame.

    Attributes:
        channel: its name.
        path: its picture, as written.
        cam2img: (3, 3) float64.
        lidar2cam: (4, 4) float64.
        timestamp_s: when it fired, or None.
    """

    channel: str
    path: str
    cam2img: np.ndarray
    lidar2cam: np.ndarray
    timestamp_s: float | None


@dataclass(frozen=True)
class Frame:
    """One key frame.

    Attributes:
        where: what to call it in a finding.
        token: the data set's name of it.
        timestamp_s: when the key sweep was taken.
        lidar_path: as written.
        lidar2ego, ego2global: (4, 4) float64.
        sweeps: in the order of the file.
        cameras: those that are whole.
        boxes: (G, 7) float64: x, y, z of the centre, dx, dy, dz, yaw.
        labels: (G,) int64.
        velocities: (G, 2) float64, NaN where unknown.
        num_lidar_pts: (G,) int64.
        categories: names of categories to their labels, as the source has them.
        sizes: width and height of each camera's picture where the tables say so.
        scene: name of its scene where the tables say so.
    """

    where: str
    token: str
    timestamp_s: float
    lidar_path: str
    lidar2ego: np.ndarray
    ego2global: np.ndarray
    sweeps: tuple[Sweep, ...]
    cameras: tuple[Camera, ...]
    boxes: np.ndarray
    labels: np.ndarray
    velocities: np.ndarray
    num_lidar_pts: np.ndarray
    categories: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int]]
    scene: str = ""


class _MalformedError(ValueError):
    """A frame or a part of it has another form than the format says."""


def read_frame(
    raw: Any,
    where: str,
    log: Log,
    *,
    categories: Mapping[str, int],
    sizes: Mapping[str, tuple[int, int]] | None = None,
    scene: str = "",
) -> Frame | None:
    """A frame of an info file; what is malformed is found, and left out.

    Args:
        raw: as in the file.
        where: what to call it in a finding.
        log: takes the findings.
        categories: of the source.
        sizes: of pictures, by camera.
        scene: name of its scene.

    Returns:
        None when the frame as a whole cannot be used.
    """
    log.look("infos.form")
    try:
        lidar = _value(raw, "lidar_points", dict)
        boxes, labels, velocities, counts = _instances(raw)
        return Frame(
            where=where,
            token=_value(raw, "token", str),
            timestamp_s=_number(raw, "timestamp"),
            lidar_path=_value(lidar, "lidar_path", str),
            lidar2ego=_matrix(lidar, "lidar2ego", (4, 4)),
            ego2global=_matrix(raw, "ego2global", (4, 4)),
            sweeps=tuple(
                Sweep(
                    _value(_value(sweep, "lidar_points", dict), "lidar_path", str),
                    _number(sweep, "timestamp"),
                )
                for sweep in _list(raw, "lidar_sweeps")
            ),
            cameras=tuple(_cameras(raw, where, log)),
            boxes=boxes,
            labels=labels,
            velocities=velocities,
            num_lidar_pts=counts,
            categories=categories,
            sizes=sizes or {},
            scene=scene,
        )
    except _MalformedError as error:
        log.find("infos.form", where, str(error))
        return None


def _cameras(raw: Mapping[str, Any], where: str, log: Log) -> list[Camera]:
    images = raw.get("images") or {}
    if not isinstance(images, dict):
        raise _MalformedError(f"images must be a dict, got {type(images).__name__}")
    cameras = []
    for channel, camera in images.items():
        if isinstance(camera, dict) and not {"cam2img", "lidar2cam"} & set(camera):
            continue  # a place holder for a camera that this frame has not
        try:
            cameras.append(
                Camera(
                    str(channel),
                    _value(camera, "img_path", str),
                    _matrix(camera, "cam2img", (3, 3), (4, 4))[:3, :3],
                    _matrix(camera, "lidar2cam", (4, 4)),
                    _number(camera, "timestamp") if "timestamp" in camera else None,
                )
            )
        except _MalformedError as error:
            log.find("infos.form", f"{where}, {channel}", str(error))
    return cameras


def _instances(raw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    boxes, labels, velocities, counts = [], [], [], []
    for i, instance in enumerate(_list(raw, "instances")):
        try:
            boxes.append(_row(instance, "bbox_3d", 7))
            labels.append(int(_number(instance, "bbox_label_3d")))
            velocities.append(_row(instance, "velocity", 2))
            counts.append(int(_number(instance, "num_lidar_pts")))
        except _MalformedError as error:
            raise _MalformedError(f"instances[{i}]: {error}") from None
    return (
        np.array(boxes, np.float64).reshape(-1, 7),
        np.array(labels, np.int64),
        np.array(velocities, np.float64).reshape(-1, 2),
        np.array(counts, np.int64),
    )


def _list(raw: Any, key: str) -> Any:
    """A list that files leave out, or hold None for, where it would be empty."""
    value = raw.get(key) if isinstance(raw, dict) else _get(raw, key)
    if not isinstance(value, list | tuple | None):
        raise _MalformedError(f"{key} must be a list, got {type(value).__name__}")
    return value or ()


def _get(holder: Any, key: str) -> Any:
    if not isinstance(holder, dict) or key not in holder:
        raise _MalformedError(f"{key} must be present, got nothing")
    return holder[key]


def _value(holder: Any, key: str, kind: type) -> Any:
    value = _get(holder, key)
    if not isinstance(value, kind):
        raise _MalformedError(f"{key} must be a {kind.__name__}, got {type(value).__name__}")
    return value


def _number(holder: Any, key: str) -> float:
    value = _get(holder, key)
    number = as_float(value)
    if not abs(number) <= HUGE:
        raise _MalformedError(f"{key} must be a finite number, got {value!r:.60}")
    return number


def _array(holder: Any, key: str) -> np.ndarray:
    value = _get(holder, key)
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _MalformedError(f"{key} must be numbers, got {value!r:.60}") from None


def _row(holder: Any, key: str, length: int) -> np.ndarray:
    value = _array(holder, key)
    if value.shape != (length,):
        raise _MalformedError(f"{key} must be {length} numbers, got shape {value.shape}")
    return value


def _matrix(holder: Any, key: str, *shapes: tuple[int, int]) -> np.ndarray:
    value = _array(holder, key)
    if value.shape not in shapes or not (np.abs(value) <= HUGE).all():
        wanted = " or ".join(f"{a} x {b}" for a, b in shapes)
        raise _MalformedError(f"{key} must be {wanted} finite numbers, got {value.tolist()!r:.60}")
    return value


def in_categories(frame: Frame) -> np.ndarray:
    """(G,) bool: a label that the source's categories have, or the one of ignored objects."""
    known: np.ndarray = np.isin(frame.labels, [IGNORED, *frame.categories.values()])
    return known
