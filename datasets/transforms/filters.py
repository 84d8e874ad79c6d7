"""Leave out points and boxes that the model cannot use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anybev.datasets import boxes as geometry
from anybev.datasets.sample import Sample
from anybev.datasets.transforms.base import check_range


def keep_boxes(sample: Sample, mask: np.ndarray) -> Sample:
    """``sample`` with the boxes of ``mask`` (G,) bool."""
    sample.boxes_lidar = sample.boxes_lidar[mask]
    sample.labels = sample.labels[mask]
    sample.num_lidar_pts = sample.num_lidar_pts[mask]
    return sample


class PointsRangeFilter:
    """Keeps points strictly inside a box.

    Args:
        point_cloud_range: x, y, z low, then x, y, z high, metres.
    """

    def __init__(self, point_cloud_range: Sequence[float]) -> None:
        self.limits = check_range("PointsRangeFilter", point_cloud_range)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Filter ``points_lidar_m``.

        Raises:
            ValueError: no point is inside.
        """
        inside = np.ones(sample.points_lidar_m.shape[0], bool)
        for axis in range(3):
            column = sample.points_lidar_m[:, axis]
            inside &= (column > self.limits[axis]) & (column < self.limits[axis + 3])
        if not inside.any():
            raise ValueError(
                f"PointsRangeFilter: at least one point must lie inside {self.limits.tolist()}, "
                f"got none of {inside.size}"
            )
        sample.points_lidar_m = sample.points_lidar_m.compress(inside, axis=0)
        return sample


class ObjectRangeFilter:
    """Keeps boxes whose centre lies strictly inside, seen from above; wraps yaw to [-pi, pi).

    Args:
        point_cloud_range: x, y, z low, then x, y, z high, metres; z is not looked at.
    """

    def __init__(self, point_cloud_range: Sequence[float]) -> None:
        self.limits = check_range("ObjectRangeFilter", point_cloud_range)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Filter boxes and labels."""
        xy = sample.boxes_lidar[:, :2]
        inside = (xy > self.limits[:2]) & (xy < self.limits[3:5])
        keep_boxes(sample, inside[:, 0] & inside[:, 1])
        sample.boxes_lidar[:, 6] = geometry.wrap_angle(sample.boxes_lidar[:, 6])
        return sample


class ObjectNameFilter:
    """Keeps boxes of the configured classes; the ignored ones (-1) go.

    Args:
        classes: names in the order of the labels.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.count = len(classes)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Filter boxes and labels."""
        return keep_boxes(sample, (sample.labels >= 0) & (sample.labels < self.count))
