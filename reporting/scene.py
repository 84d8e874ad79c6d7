"""One frame as people look at it: points, pictures, what was found and what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

#: Predictions below it are not drawn unless a user says so.
SCORE_THRESHOLD = 0.3


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 9), np.float32)


def _no_labels() -> np.ndarray:
    return np.zeros((0,), np.int64)


@dataclass(frozen=True)
class SceneCamera:
    """One picture of a frame.

    Attributes:
        channel: the data set's name of the camera.
        image: (H, W, 3) uint8, RGB, as recorded.
        lidar2img: (4, 4), lidar frame in metres to (u * depth, v * depth, depth, 1) of ``image``.

    Raises:
        TypeError: the image is not uint8.
        ValueError: a shape is another, or the matrix is not finite.
    """

    channel: str
    image: np.ndarray
    lidar2img: np.ndarray

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8:
            raise TypeError(f"scene: image of {self.channel} must be uint8, got {self.image.dtype}")
        if self.image.ndim != 3 or self.image.shape[2] != 3 or not self.image.size:
            raise ValueError(
                f"scene: image of {self.channel} must be (H, W, 3), got {self.image.shape}"
            )
        if self.lidar2img.shape != (4, 4) or not np.isfinite(self.lidar2img).all():
            raise ValueError(
                f"scene: lidar2img of {self.channel} must be a finite (4, 4) matrix, got shape "
                f"{self.lidar2img.shape}"
            )


@dataclass(frozen=True)
class Scene:
    """One frame with its predictions and its ground truth, all in the lidar frame.

    Attributes:
        token: the data set's name of the frame.
        points_lidar_m: (P, >=3): x, y, z in metres first.
        classes: name of each label.
        cameras: pictures, in any order; empty where there are none.
        predicted_boxes_lidar: (N, >=7): x, y, z_bottom, dx, dy, dz in metres, yaw in radians.
        predicted_scores: (N,) in 0..1.
        predicted_labels: (N,) integers, index into ``classes``.
        true_boxes_lidar: (G, >=7), as the predicted ones.
        true_labels: (G,) integers, -1 for a category that is not among ``classes``.

    Raises:
        ValueError: a shape, a label or a value is out of its contract; says which.
    """

    token: str
    points_lidar_m: np.ndarray
    classes: Sequence[str]
    cameras: Sequence[SceneCamera] = ()
    predicted_boxes_lidar: np.ndarray = field(default_factory=_no_boxes)
    predicted_scores: np.ndarray = field(default_factory=lambda: np.zeros((0,), np.float32))
    predicted_labels: np.ndarray = field(default_factory=_no_labels)
    true_boxes_lidar: np.ndarray = field(default_factory=_no_boxes)
    true_labels: np.ndarray = field(default_factory=_no_labels)

    def __post_init__(self) -> None:
        points = self.points_lidar_m
        if points.ndim != 2 or points.shape[1] < 3:
            raise ValueError(f"scene: points_lidar_m must be (P, 3 or more), got {points.shape}")
        self._check("predicted", self.predicted_boxes_lidar, self.predicted_labels, 0)
        self._check("true", self.true_boxes_lidar, self.true_labels, -1)
        count = len(self.predicted_boxes_lidar)
        if self.predicted_scores.shape != (count,):
            raise ValueError(
                f"scene: predicted_scores must be ({count},) as its boxes are, got "
                f"{self.predicted_scores.shape}"
            )

    def _check(self, kind: str, boxes: np.ndarray, labels: np.ndarray, lowest: int) -> None:
        if boxes.ndim != 2 or boxes.shape[1] < 7 or not np.isfinite(boxes[:, :7]).all():
            raise ValueError(
                f"scene: {kind}_boxes_lidar must be finite and (N, 7 or more), got {boxes.shape}"
            )
        if labels.shape != (len(boxes),):
            raise ValueError(
                f"scene: {kind}_labels must be ({len(boxes)},) as its boxes are, got {labels.shape}"
            )
        if len(labels) and not (labels.min() >= lowest and labels.max() < len(self.classes)):
            raise ValueError(
                f"scene: {kind}_labels must be in {lowest}..{len(self.classes) - 1}, got "
                f"{labels.min()}..{labels.max()}"
            )
