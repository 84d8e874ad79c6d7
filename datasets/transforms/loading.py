"""Files -> sample: points, earlier sweeps, annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from anybev.datasets.infos import FrameInfo
from anybev.datasets.points import (
    AGE_COLUMN,
    MAX_POINTS,
    SweepTransform,
    check_backend,
    far_enough,
    join_sweeps,
    read_points,
)
from anybev.datasets.sample import Sample


def _columns(name: str, load_dim: int, use_dim: int | Sequence[int]) -> list[int]:
    columns = list(range(use_dim)) if isinstance(use_dim, int) else list(use_dim)
    if len(columns) != 5 or not all(0 <= c < load_dim for c in columns):
        raise ValueError(
            f"{name}: use_dim must name 5 of the {load_dim} columns, got {use_dim}; points are "
            "x, y, z, intensity, age"
        )
    return columns


def _frame(name: str, sample: Sample) -> FrameInfo:
    if sample.frame is None:
        raise ValueError(f"{name}: sample must carry its frame, got none")
    return sample.frame


class LoadPointsFromFile:
    """Reads the key sweep; its last column, the ring, becomes the age 0.

    Args:
        coord_type: frame of the points; only ``LIDAR``.
        load_dim: numbers in a row of the file.
        use_dim: how many of them, or which, are used: five.
        backend_args: None; files are read from disk.
        max_points: a larger file is refused.
    """

    def __init__(
        self,
        coord_type: Literal["LIDAR"] = "LIDAR",
        load_dim: int = 5,
        use_dim: int | Sequence[int] = 5,
        backend_args: None = None,
        *,
        max_points: int = MAX_POINTS,
    ) -> None:
        check_backend("LoadPointsFromFile", backend_args)
        if coord_type != "LIDAR":
            raise ValueError(f"LoadPointsFromFile: coord_type must be LIDAR, got {coord_type!r}")
        self.load_dim, self.max_points = load_dim, max_points
        self.columns = _columns("LoadPointsFromFile", load_dim, use_dim)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill ``points_lidar_m``."""
        frame = _frame("LoadPointsFromFile", sample)
        path = Path(frame.lidar_path)
        points, dropped = read_points(path, load_dim=self.load_dim, max_points=self.max_points)
        points = points.take(self.columns, axis=1)
        points[:, AGE_COLUMN] = 0
        sample.points_lidar_m = points
        sample.dropped_points += dropped
        return sample


class LoadPointsFromMultiSweeps:
    """Adds earlier sweeps, moved into the key frame, with their age in the last column.

    Args:
        sweeps_num: how many; 0 adds none. With fewer on file, all are taken; with more, they are
            drawn at random, at test time too, as the published numbers were made.
        load_dim: numbers in a row of a file.
        use_dim: how many of them, or which, are used: five.
        backend_args: None; files are read from disk.
        pad_empty_sweeps: a frame without sweeps gets ``sweeps_num`` copies of its own points.
        remove_close: leave out sweep points within 1 m, returns of the own vehicle.
        test_mode: mmdetection3d's switch for ``sweep_choice="nearest"``.
        sweep_choice: ``random`` (from the sample's own generator) or ``nearest``.
        sweep_transform: ``reference`` for parity with published checkpoints, or ``corrected``.
        max_points: a larger file is refused.
    """

    def __init__(
        self,
        sweeps_num: int = 10,
        load_dim: int = 5,
        use_dim: int | Sequence[int] = 5,
        backend_args: None = None,
        pad_empty_sweeps: bool = False,
        remove_close: bool = False,
        test_mode: bool = False,
        *,
        sweep_choice: Literal["random", "nearest"] = "random",
        sweep_transform: SweepTransform = "reference",
        max_points: int = MAX_POINTS,
    ) -> None:
        name = "LoadPointsFromMultiSweeps"
        check_backend(name, backend_args)
        if sweeps_num < 0:
            raise ValueError(f"{name}: sweeps_num must be 0 or more, got {sweeps_num}")
        if sweep_choice not in ("random", "nearest"):
            raise ValueError(f"{name}: sweep_choice must be random or nearest, got {sweep_choice}")
        if sweep_transform not in ("reference", "corrected"):
            raise ValueError(
                f"{name}: sweep_transform must be reference or corrected, got {sweep_transform}"
            )
        self.sweeps_num, self.load_dim, self.max_points = sweeps_num, load_dim, max_points
        self.columns = _columns(name, load_dim, use_dim)
        self.pad_empty_sweeps, self.remove_close = pad_empty_sweeps, remove_close
        self.random = sweep_choice == "random" and not test_mode
        self.sweep_transform: SweepTransform = sweep_transform

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Extend ``points_lidar_m``."""
        frame = _frame("LoadPointsFromMultiSweeps", sample)
        if not frame.sweeps:
            self._pad(sample)
            return sample
        sweeps = []
        for i in self._choose(len(frame.sweeps), rng):
            path = Path(frame.sweeps[i].path)
            points, dropped = read_points(path, load_dim=self.load_dim, max_points=self.max_points)
            sample.dropped_points += dropped
            sweeps.append((points.take(self.columns, axis=1), frame.sweeps[i]))
        sample.points_lidar_m = join_sweeps(
            sample.points_lidar_m,
            sweeps,
            frame.timestamp_s,
            transform=self.sweep_transform,
            remove_close=self.remove_close,
        )
        return sample

    def _choose(self, available: int, rng: np.random.Generator) -> np.ndarray:
        if available <= self.sweeps_num or not self.random:
            return np.arange(min(available, self.sweeps_num))
        return rng.choice(available, self.sweeps_num, replace=False)

    def _pad(self, sample: Sample) -> None:
        points = sample.points_lidar_m
        points[:, AGE_COLUMN] = 0
        if self.pad_empty_sweeps and self.sweeps_num:
            copy = points.compress(far_enough(points), axis=0) if self.remove_close else points
            sample.points_lidar_m = np.concatenate([points, *[copy] * self.sweeps_num])


class LoadAnnotations3D:
    """Copies the frame's boxes and labels into the sample.

    Args:
        with_bbox_3d: boxes.
        with_label_3d: labels; boxes and labels come together.
        with_attr_label: attributes are not read.
    """

    def __init__(
        self,
        with_bbox_3d: bool = True,
        with_label_3d: bool = True,
        with_attr_label: bool = False,
    ) -> None:
        if not (with_bbox_3d and with_label_3d) or with_attr_label:
            raise ValueError(
                "LoadAnnotations3D: with_bbox_3d and with_label_3d must be True and "
                f"with_attr_label False, got {with_bbox_3d}, {with_label_3d}, {with_attr_label}"
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill ``boxes_lidar``, ``labels`` and ``num_lidar_pts``."""
        frame = _frame("LoadAnnotations3D", sample)
        sample.boxes_lidar = frame.boxes_lidar.copy()
        sample.labels = frame.labels.copy()
        sample.num_lidar_pts = frame.num_lidar_pts.copy()
        return sample
