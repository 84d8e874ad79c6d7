"""The two records that travel from the data to the model, and the one that travels back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anybev.datasets.infos import FrameInfo, is_singular


class SampleKey(NamedTuple):
    """What augmentation depends on, beside the seed: the epoch and the place in the data set."""

    epoch: int
    index: int  # type: ignore[assignment]  # tuple.index is of no use here


@dataclass
class CameraView:
    """One camera of a key frame on its way through loading and augmentation.

    Attributes:
        channel: the data set's name of the camera.
        image: (H, W, 3) uint8, RGB.
        cam2img: (4, 4) float64, camera frame in metres to pixels of the picture as recorded.
        lidar2cam: (4, 4) float64, lidar frame at the sweep's time to camera frame at exposure.
        img_aug_matrix: (4, 4) float64, pixels as recorded to pixels of ``image``; depth is kept.
    """

    channel: str
    image: np.ndarray
    cam2img: np.ndarray
    lidar2cam: np.ndarray
    img_aug_matrix: np.ndarray = field(default_factory=lambda: np.eye(4))


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
        cameras: in the order of the info file; empty where the pipeline loads no images.
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
    cameras: list[CameraView] = field(default_factory=list)


@dataclass(frozen=True)
class CameraBatch:
    """Pictures of B samples with N cameras each, all of one size.

    Attributes:
        images: (B, N, 3, H, W) uint8, RGB, not normalised.
        cam2img, lidar2img, cam2lidar: (B, N, 4, 4) float32, in terms of the recorded pictures and
            of the lidar frame before augmentation.
        img_aug_matrix: (B, N, 4, 4) float32, recorded pixels to pixels of ``images``.
    """

    images: Tensor
    cam2img: Tensor
    lidar2img: Tensor
    cam2lidar: Tensor
    img_aug_matrix: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CameraBatch:
        """The same pictures with every tensor on ``device``."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
        }
        return CameraBatch(**moved)


@dataclass(frozen=True)
class Batch:
    """What the detector takes: lists over the B samples, so clouds may differ in length.

    Attributes:
        points_lidar_m: B tensors (P_b, 5) float32.
        boxes_lidar: B tensors (G_b, 9) float32 (empty at test time).
        labels: B tensors (G_b,) int64.
        tokens: B names.
        lidar_aug_matrix: (B, 4, 4) float32.
        cameras: None where the pipeline loads no images.
    """

    points_lidar_m: list[Tensor]
    boxes_lidar: list[Tensor]
    labels: list[Tensor]
    tokens: list[str]
    lidar_aug_matrix: Tensor
    cameras: CameraBatch | None = None

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
            cameras=self.cameras and self.cameras.to(device, non_blocking),
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
        cameras=_collate_cameras(samples),
    )


def _collate_cameras(samples: Sequence[Sample]) -> CameraBatch | None:
    """The samples' pictures, which must agree in number and size.

    Here is the last look at the matrices on the host: the model inverts them on its device, where
    looking would mean waiting.

    Raises:
        ValueError: they do not agree, or a matrix cannot be inverted.
    """
    if not any(s.cameras for s in samples):
        return None
    sizes = {s.token: [view.image.shape for view in s.cameras] for s in samples}
    first = next(s.cameras for s in samples if s.cameras)
    wanted = [first[0].image.shape] * len(first)
    for token, got in sizes.items():
        if got != wanted:
            raise ValueError(
                f"collate: images of sample {token} must be {len(wanted)} of shape {wanted[0]} as "
                f"in the rest of the batch, got {got}; try ImageAug3D with one final_dim"
            )
    for s in samples:
        for view in s.cameras:
            _check_calibration(s.token, view)
    views = [s.cameras for s in samples]

    def stack(matrix: Callable[[CameraView], np.ndarray]) -> Tensor:
        rows = np.stack([[matrix(view) for view in row] for row in views])
        return torch.from_numpy(rows.astype(np.float32))

    images = np.stack([np.stack([view.image for view in row]) for row in views])
    return CameraBatch(
        images=torch.from_numpy(images).permute(0, 1, 4, 2, 3).contiguous(),
        cam2img=stack(lambda v: v.cam2img),
        lidar2img=stack(lambda v: v.cam2img @ v.lidar2cam),
        cam2lidar=stack(lambda v: np.linalg.inv(v.lidar2cam)),
        img_aug_matrix=stack(lambda v: v.img_aug_matrix),
    )


def _check_calibration(token: str, view: CameraView) -> None:
    for name in ("cam2img", "lidar2cam", "img_aug_matrix"):
        matrix = getattr(view, name)
        if not np.isfinite(matrix).all() or is_singular(matrix[:3, :3]):
            raise ValueError(
                f"collate: {name} of {view.channel} in sample {token} must be finite and "
                f"invertible, got {matrix.tolist()}"
            )
