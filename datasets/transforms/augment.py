"""Random changes of the whole scene, recorded in ``lidar_aug_matrix``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from anybev.datasets import boxes as geometry
from anybev.datasets.sample import Sample


def _move_points(points_lidar_m: np.ndarray, matrix: np.ndarray) -> None:
    """Apply a (4, 4) transform to the first three columns, in place."""
    # By columns: four times as fast as a product of 3-wide rows, and no BLAS decides the rounding.
    x, y, z = (points_lidar_m[:, i].copy() for i in range(3))
    for i, (a, b, c, offset) in enumerate(matrix[:3].astype(np.float32)):
        points_lidar_m[:, i] = a * x + b * y + c * z + offset


class _RotScaleTrans:
    """Draws and applies a turn about z, a scale and a shift; subclasses say in which order."""

    order: Literal["rotate-scale-translate", "rotate-translate-scale"]

    def __init__(
        self,
        rot_range: Sequence[float] = (-0.78539816, 0.78539816),
        scale_ratio_range: Sequence[float] = (0.95, 1.05),
        translation_std: Sequence[float] | float = (0.0, 0.0, 0.0),
        shift_height: bool = False,
    ) -> None:
        name = type(self).__name__
        for argument, value in (("rot_range", rot_range), ("scale_ratio_range", scale_ratio_range)):
            if len(value) != 2 or value[0] > value[1]:
                raise ValueError(f"{name}: {argument} must be (low, high), got {value}")
        if scale_ratio_range[0] <= 0:
            raise ValueError(f"{name}: scale_ratio_range must be positive, got {scale_ratio_range}")
        std = np.broadcast_to(np.asarray(translation_std, np.float64), (3,))
        if (std < 0).any():
            raise ValueError(f"{name}: translation_std must be 0 or more, got {translation_std}")
        if shift_height:
            raise ValueError(f"{name}: shift_height must be False, got True")
        self.rot_range = float(rot_range[0]), float(rot_range[1])
        self.scale_ratio_range = float(scale_ratio_range[0]), float(scale_ratio_range[1])
        self.translation_std = std

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change points and boxes alike."""
        yaw_rad = rng.uniform(*self.rot_range)
        factor = rng.uniform(*self.scale_ratio_range)
        shift_m = rng.normal(0.0, self.translation_std)
        if self.order == "rotate-translate-scale":
            shift_m = shift_m * factor
        matrix = np.eye(4)
        matrix[:3, :3] = factor * geometry.rotation_about_z(yaw_rad)
        matrix[:3, 3] = shift_m
        _move_points(sample.points_lidar_m, matrix)
        turned = geometry.scale(geometry.rotate(sample.boxes_lidar, yaw_rad), factor)
        sample.boxes_lidar = geometry.translate(turned, shift_m)
        sample.lidar_aug_matrix = matrix @ sample.lidar_aug_matrix
        return sample


class GlobalRotScaleTrans(_RotScaleTrans):
    """p' = scale * R p + shift, the order of mmdetection3d's lidar-only configs.

    Args:
        rot_range: (low, high) of the turn about z, radians.
        scale_ratio_range: (low, high) of the scale; sizes and velocities scale too.
        translation_std: standard deviation of the shift, metres, one for each axis or for all.
        shift_height: not supported.
    """

    order = "rotate-scale-translate"


class BEVFusionGlobalRotScaleTrans(_RotScaleTrans):
    """p' = scale * (R p + shift), the order of BEVFusion's lidar-camera configs.

    Args:
        rot_range: (low, high) of the turn about z, radians.
        scale_ratio_range: (low, high) of the scale; sizes and velocities scale too.
        translation_std: standard deviation of the shift, metres, one for each axis or for all.
        shift_height: not supported.
    """

    order = "rotate-translate-scale"


class BEVFusionRandomFlip3D:
    """Mirrors the scene left-right and front-back, each with probability one half."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change points and boxes alike."""
        horizontal, vertical = (bool(coin) for coin in rng.integers(0, 2, 2))
        if horizontal:
            sample.points_lidar_m[:, 1] *= -1
            sample.boxes_lidar = geometry.flip_y(sample.boxes_lidar)
            sample.lidar_aug_matrix = np.diag([1.0, -1.0, 1.0, 1.0]) @ sample.lidar_aug_matrix
        if vertical:
            sample.points_lidar_m[:, 0] *= -1
            sample.boxes_lidar = geometry.flip_x(sample.boxes_lidar)
            sample.lidar_aug_matrix = np.diag([-1.0, 1.0, 1.0, 1.0]) @ sample.lidar_aug_matrix
        return sample


class PointShuffle:
    """Puts the points in random order: voxelisation keeps the first ones of a crowded cell."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Reorder ``points_lidar_m``."""
        order = rng.permutation(sample.points_lidar_m.shape[0])
        sample.points_lidar_m = sample.points_lidar_m.take(order, axis=0)
        return sample
