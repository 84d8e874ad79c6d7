"""Six cameras for operator benchmarks: where they stand and what BEVFusion lifts from them."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from anybev import envs
from anybev.datasets.infos import load_infos, parse_frames

IMAGE_SIZE = (256, 704)
FEATURE_SIZE = (32, 88)
GRID = (360, 360, 1)
LOWER_M = (-54.0, -54.0, -10.0)
CELL_SIZE_M = (0.3, 0.3, 20.0)

# What test-time loading does to a picture of 900 x 1600: 0.48 of its size, cut to the lower middle.
_SCALE, _CUT_PX = 0.48, (32.0, 176.0)
# The data set's rig: yaw of each camera's axis in the lidar frame, whose y points ahead.
_YAWS_DEG = (90.0, 35.0, 145.0, 270.0, 200.0, 340.0)
_FOCAL_PX, _CENTRE_PX = 1260.0, (816.0, 491.0)


@dataclass(frozen=True)
class Rig:
    """Matrices of N cameras, test-time image augmentation, lidar frame not augmented.

    Attributes:
        origin: where the calibration comes from.
        cam2img, lidar2cam, img_aug_matrix: (N, 4, 4) float64.
    """

    origin: str
    cam2img: Tensor
    lidar2cam: Tensor
    img_aug_matrix: Tensor

    @property
    def lidar2img(self) -> Tensor:
        """(N, 4, 4) float32."""
        return (self.cam2img @ self.lidar2cam).float()

    def rays(self) -> tuple[Tensor, Tensor]:
        """Directions (N, h, w, 3) for one metre of depth and camera centres (N, 3), float32."""
        h, w = FEATURE_SIZE
        v = torch.linspace(0, IMAGE_SIZE[0] - 1, h, dtype=torch.float64)
        u = torch.linspace(0, IMAGE_SIZE[1] - 1, w, dtype=torch.float64)
        ones = torch.ones(h, w, dtype=torch.float64)
        pixel = torch.stack([u.expand(h, w), v[:, None].expand(h, w), ones], -1)
        cam2lidar = torch.linalg.inv(self.lidar2cam)
        flat = self.img_aug_matrix[:, :2, :2]
        recorded = torch.eye(3, dtype=torch.float64).repeat(len(flat), 1, 1)
        recorded[:, :2, :2], recorded[:, :2, 2] = flat, self.img_aug_matrix[:, :2, 3]
        turn = cam2lidar[:, :3, :3] @ torch.linalg.inv(recorded @ self.cam2img[:, :3, :3])
        rays = torch.einsum("nij,hwj->nhwi", turn, pixel)
        return rays.float(), cam2lidar[:, :3, 3].float()

    def frustum_coords(self) -> Tensor:
        """(M, 4) int32 cells of all lifted points on the grid; by camera, depth, row, column."""
        rays, centres = self.rays()
        depths = torch.arange(1.0, 60.0, 0.5)
        points = depths[:, None, None, None] * rays[:, None] + centres[:, None, None, None]
        cells = ((points - torch.tensor(LOWER_M)) / torch.tensor(CELL_SIZE_M)).int().flatten(0, -2)
        kept = cells[((cells >= 0) & (cells < torch.tensor(GRID))).all(1)]
        return torch.cat([torch.zeros_like(kept[:, :1]), kept], 1)


@cache
def load_rig() -> Rig:
    """The real frame's calibration when sample data is present, else a rig like it; labelled."""
    aug = torch.eye(4, dtype=torch.float64)
    aug[0, 0] = aug[1, 1] = _SCALE
    aug[0, 3], aug[1, 3] = -_CUT_PX[0], -_CUT_PX[1]
    files = sorted((envs.test_data() / "data" / "nuscenes_frame").glob("*.pkl"))
    if files:
        frame = parse_frames(load_infos(files[0]), (), source=files[0], image_folder=lambda c: c)[0]
        cam2img = np.stack([camera.cam2img for camera in frame.cameras])
        lidar2cam = np.stack([camera.lidar2cam for camera in frame.cameras])
        origin = "real nuScenes rig"
    else:
        cam2img, lidar2cam = _synthetic_rig()
        origin = "synthetic rig, same yaws and pictures"
    return Rig(
        origin,
        torch.from_numpy(cam2img),
        torch.from_numpy(lidar2cam),
        aug.repeat(len(cam2img), 1, 1),
    )


def _synthetic_rig() -> tuple[np.ndarray, np.ndarray]:
    cam2img = np.eye(4)
    cam2img[0, 0] = cam2img[1, 1] = _FOCAL_PX
    cam2img[:2, 2] = _CENTRE_PX
    lidar2cam = []
    for yaw_rad in np.deg2rad(_YAWS_DEG):
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        matrix = np.eye(4)
        matrix[:3, :3] = [[sin, -cos, 0], [0, 0, -1], [cos, sin, 0]]  # right, down, ahead
        matrix[:3, 3] = -matrix[:3, :3] @ [0.6 * cos, 0.6 * sin, -0.3]
        lidar2cam.append(matrix)
    return np.stack([cam2img] * len(lidar2cam)), np.stack(lidar2cam)
