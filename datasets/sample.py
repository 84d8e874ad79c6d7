"""The two records that travel from the data to the model, and the one that travels back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from anybev.datasets.infos import FrameInfo


class SampleKey(NamedTuple):
    """What augmentation depends on, beside the seed: the epoch and the place in the data set."""

    epoch: int
    index: int  # type: ignore[assignment]  # tuple.index is of no use here


@dataclass
class Sample:
    """One key frame on its way through loading and augmentation (numpy, lidar frame).

    Attributes:
        token: the data set's name of the frame.
        index: position in the info file.
        points_lidar_m: (P, 5) float32: x, y, z in metres, intensity 0..255, age in seconds.
        boxes_lidar: (G, 9) float32: x, y, z_bottom, dx, dy, dz in metres, yaw in radians, vx, vy in
            metres a second.
        labels: (G,) int64, index into the configured classes, -1 for ignored.
        num_lidar_pts: (G,) int64, points inside each box as annotated.
        lidar2ego, ego2global: (4, 4) float64.
        lidar_aug_matrix: (4, 4) float64, what augmentation did to the lidar frame.
        key: what the sample was asked for by.
        seed: of the run's augmentation.
        frame: where the frame's files and annotations are; None once nothing is left to load.
        dropped_points: how many unusable points (not finite, or far out) loading left out.
    """

    token: str
    index: int
    points_lidar_m: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    boxes_lidar: np.ndarray = field(default_factory=lambda: np.zeros((0, 9), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0,), np.int64))
    num_lidar_pts: np.ndarray = field(default_factory=lambda: np.zeros((0,), np.int64))
    lidar2ego: np.ndarray = field(default_factory=lambda: np.eye(4))
    ego2global: np.ndarray = field(default_factory=lambda: np.eye(4))
    lidar_aug_matrix: np.ndarray = field(default_factory=lambda: np.eye(4))
    key: SampleKey = field(default=SampleKey(0, 0))
    seed: int = 0
    frame: FrameInfo | None = None
    dropped_points: int = 0


@dataclass(frozen=True)
class Batch:
    """What the detector takes: lists over the B samples, so clouds may differ in length.

    Attributes:
        points_lidar_m: B tensors (P_b, 5) float32.
        boxes_lidar: B tensors (G_b, 9) float32 (empty at test time).
        labels: B tensors (G_b,) int64.
        tokens: B names.
        lidar_aug_matrix: (B, 4, 4) float32.
    """

    points_lidar_m: list[Tensor]
    boxes_lidar: list[Tensor]
    labels: list[Tensor]
    tokens: list[str]
    lidar_aug_matrix: Tensor

    def __len__(self) -> int:
        return len(self.points_lidar_m)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on ``device``."""

        def move(tensors: list[Tensor]) -> list[Tensor]:
            return [t.to(device, non_blocking=non_blocking) for t in tensors]

        return replace(
            self,
            points_lidar_m=move(self.points_lidar_m),
            boxes_lidar=move(self.boxes_lidar),
            labels=move(self.labels),
            lidar_aug_matrix=self.lidar_aug_matrix.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class Detections:
    """Boxes found in one frame.

    Attributes:
        boxes_lidar: (N, 9) float32, as ``Sample.boxes_lidar``.
        scores: (N,) float32 in 0..1.
        labels: (N,) int64, index into the configured classes.
    """

    boxes_lidar: Tensor
    scores: Tensor
    labels: Tensor


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch of tensors on the CPU."""
    return Batch(
        points_lidar_m=[torch.from_numpy(np.ascontiguousarray(s.points_lidar_m)) for s in samples],
        boxes_lidar=[torch.from_numpy(np.ascontiguousarray(s.boxes_lidar)) for s in samples],
        labels=[torch.from_numpy(np.ascontiguousarray(s.labels)) for s in samples],
        tokens=[s.token for s in samples],
        lidar_aug_matrix=torch.from_numpy(
            np.stack([s.lidar_aug_matrix for s in samples]).astype(np.float32)
        ),
    )
