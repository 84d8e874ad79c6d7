"""Reads point files and joins sweeps; what is wrong with a file is named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from anybev.datasets.infos import SweepInfo

#: One nuScenes sweep has 35,000 points; a file 50 times that is not one.
MAX_POINTS = 2_000_000
FAR_OUT_M = 1e4
CLOSE_M = 1.0
AGE_COLUMN = 4

#: ``reference`` leaves out the rotation of the ego translation as mmdetection3d does (published
#: checkpoints are trained that way, up to 0.4 m off in a turn); ``corrected`` is the right one.
SweepTransform = Literal["reference", "corrected"]

_log = logging.getLogger(__name__)


class Points(NamedTuple):
    """Points of a file and how many of its rows were left out as unusable."""

    points: np.ndarray
    dropped: int


def read_points(
    path: Path, *, load_dim: int = 5, max_points: int = MAX_POINTS, min_points: int = 1
) -> Points:
    """Read a file of float32 rows.

    Rows that are not finite or lie beyond 10 km are left out and counted: a few occur in real
    data. A file that is mostly such rows is damaged.

    Args:
        path: the file.
        load_dim: numbers in a row; x, y, z in metres first.
        max_points: more rows are refused before they are read.
        min_points: fewer usable rows are refused.

    Returns:
        (P, load_dim) float32 and the count of rows left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, too large, empty or mostly unusable.
    """
    if not path.is_file():
        raise FileNotFoundError(f"points: {path} must be an existing file, got none")
    size, row = path.stat().st_size, 4 * load_dim
    if size % row:
        raise ValueError(
            f"points: {path} must hold whole rows of {load_dim} float32 ({row} bytes), got {size} "
            f"bytes ({size % row} over); try another load_dim, or fetch the file again"
        )
    if size > max_points * row:
        raise ValueError(f"points: {path} must hold at most {max_points} points, got {size // row}")
    raw = np.fromfile(path, np.float32)
    if raw.size * 4 != size:
        raise ValueError(f"points: {path} must be readable whole, got {raw.size * 4} of {size} B")
    points = raw.reshape(-1, load_dim)
    # The usual file in one pass; NaN fails the comparison.
    if points.size and points.min() >= -FAR_OUT_M and points.max() <= FAR_OUT_M:
        return Points(points, 0)
    # A NaN fails the comparison too.
    usable = (np.abs(points[:, :3]) <= FAR_OUT_M).all(1) & np.isfinite(points).all(1)
    dropped = int(points.shape[0] - np.count_nonzero(usable))
    if dropped:
        if dropped * 2 > points.shape[0]:
            raise ValueError(
                f"points: {path} must hold finite points within {FAR_OUT_M:.0f} m, got {dropped} "
                f"of {points.shape[0]} that are not"
            )
        _log.warning(
            "%s: left out %d of %d points: not finite or beyond %.0f m",
            path,
            dropped,
            points.shape[0],
            FAR_OUT_M,
        )
        points = points[usable]
    if points.shape[0] < min_points:
        raise ValueError(f"points: {path} must hold at least {min_points} point(s), got none")
    return Points(points, dropped)


def far_enough(points_lidar_m: np.ndarray, radius_m: float = CLOSE_M) -> np.ndarray:
    """(P,) bool: outside the square of half side ``radius_m`` that the own vehicle returns from."""
    x, y = np.abs(points_lidar_m[:, 0]), np.abs(points_lidar_m[:, 1])
    far: np.ndarray = (x >= radius_m) | (y >= radius_m)
    return far


def move_sweep(points_m: np.ndarray, sweep: SweepInfo, transform: SweepTransform) -> np.ndarray:
    """Bring a sweep's points into the key frame's lidar frame, in place.

    Args:
        points_m: (P, 5) float32 in the sweep's own lidar frame.
        sweep: its pose.
        transform: which formula, see ``SweepTransform``.
    """
    rotation, offset = sweep.lidar2sensor[:3, :3], sweep.lidar2sensor[:3, 3]
    points_m[:, :3] = points_m[:, :3] @ rotation
    points_m[:, :3] -= offset if transform == "reference" else offset @ rotation
    return points_m


def join_sweeps(
    key_points_m: np.ndarray,
    sweeps: list[tuple[np.ndarray, SweepInfo]],
    timestamp_s: float,
    *,
    transform: SweepTransform = "reference",
    remove_close: bool = True,
) -> np.ndarray:
    """The key frame's points followed by those of earlier sweeps, in the order given.

    Args:
        key_points_m: (P, 5) float32; its last column becomes 0.
        sweeps: each sweep's (P_i, 5) points in its own frame, changed in place, and its pose.
        timestamp_s: of the key frame.
        transform: see ``SweepTransform``.
        remove_close: leave out sweep points that came from the own vehicle.

    Returns:
        (P + sum P_i, 5) float32, the last column the age in seconds.
    """
    key_points_m[:, AGE_COLUMN] = 0
    parts = [key_points_m]
    for points, sweep in sweeps:
        kept = points.compress(far_enough(points), axis=0) if remove_close else points
        moved = move_sweep(kept, sweep, transform)
        moved[:, AGE_COLUMN] = timestamp_s - sweep.timestamp_s
        parts.append(moved)
    return np.concatenate(parts)


def check_backend(name: str, backend_args: None) -> None:
    """Stop where a config asks for remote files.

    Raises:
        ValueError: it is not None.
    """
    if backend_args is not None:
        raise ValueError(f"{name}: backend_args must be None (local files), got {backend_args!r}")
