"""Input of operator benchmarks: a lidar sweep, or ten shifted copies of it, and its voxels."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from anybev import envs
from anybev.device.ops.sparse_neighbors import PlanSpec, SparseNeighbors, sparse_pyramid

VOXEL_SIZE_M = (0.075, 0.075, 0.2)
RANGE_M = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
GRID = (1440, 1440, 41)

_DOWN = {"kernel_size": (3, 3, 3), "stride": (2, 2, 2), "mode": "strided"}
_SUBM = PlanSpec((3, 3, 3))
# BEVFusion's lidar encoder: four resolutions, three ways down, z squeezed at the end.
ENCODER = {
    "L1 subm": _SUBM,
    "D1 strided": PlanSpec(**_DOWN, padding=(1, 1, 1)),  # type: ignore[arg-type]
    "L2 subm": _SUBM,
    "D2 strided": PlanSpec(**_DOWN, padding=(1, 1, 1)),  # type: ignore[arg-type]
    "L3 subm": _SUBM,
    "D3 strided": PlanSpec(**_DOWN, padding=(1, 1, 0)),  # type: ignore[arg-type]
    "L4 subm": _SUBM,
    "out strided": PlanSpec((1, 1, 3), (1, 1, 2), mode="strided"),
}


@dataclass(frozen=True)
class Scene:
    """One cloud.

    Attributes:
        name: ``S1`` or ``S10``.
        origin: where the sweep comes from.
        points_lidar_m: (P, 5) float32: x, y, z in metres, intensity, age in seconds.
    """

    name: str
    origin: str
    points_lidar_m: Tensor

    @classmethod
    def load(cls, copies: int) -> "Scene":
        """The real sweep when sample data is present, else a synthetic one; both labelled."""
        folder = envs.test_data() / "data" / "nuscenes_frame"
        sweeps = sorted(folder.rglob("*LIDAR_TOP*.bin"))
        if sweeps:
            sweep, origin = np.fromfile(sweeps[0], np.float32).reshape(-1, 5), "real nuScenes sweep"
        else:
            sweep, origin = _synthetic_sweep(), "synthetic sweep, same beams and range"
        return cls(f"S{copies}", origin, torch.from_numpy(_repeat(sweep, copies)))

    def to(self, device: torch.device) -> "Scene":
        """The cloud on a device, where its voxels and plans are made too."""
        return replace(self, points_lidar_m=self.points_lidar_m.to(device))

    @cached_property
    def coords(self) -> Tensor:
        """(N, 4) int32 occupied cells (0, x, y, z), ascending."""
        xyz = self.points_lidar_m[:, :3]
        low, size = xyz.new_tensor(RANGE_M[:3]), xyz.new_tensor(VOXEL_SIZE_M)
        cell = torch.floor((xyz - low) / size)
        # The voxeliser fills 40 of the encoder's 41 cells along z.
        inside = ((cell >= 0) & (cell < cell.new_tensor((GRID[0], GRID[1], 40.0)))).all(1)
        x, y, z = cell[inside].long().unbind(1)
        key = torch.unique((x * GRID[1] + y) * GRID[2] + z)
        column = key // GRID[2]
        rows = [torch.zeros_like(key), column // GRID[1], column % GRID[1], key % GRID[2]]
        return torch.stack(rows, 1).int()

    @cached_property
    def plans(self) -> dict[str, SparseNeighbors]:
        """Every plan of BEVFusion's encoder, by the names of ``ENCODER``."""
        plans = sparse_pyramid(self.coords, GRID, 1, list(ENCODER.values()))
        return dict(zip(ENCODER, plans, strict=True))


def _repeat(sweep: np.ndarray, copies: int) -> np.ndarray:
    """The sweep and copies of it, each moved 0.31 m and turned 0.0012 rad further."""
    parts = []
    for copy in range(copies):
        near = (np.abs(sweep[:, 0]) < 1) & (np.abs(sweep[:, 1]) < 1)
        part = sweep[~near].copy() if copy else sweep.copy()
        cos, sin = math.cos(0.0012 * copy), math.sin(0.0012 * copy)
        x, y = part[:, 0].copy(), part[:, 1].copy()
        part[:, 0] = cos * x - sin * y - 0.31 * copy
        part[:, 1] = sin * x + cos * y - 0.02 * copy
        part[:, 4] = 0.05 * copy
        parts.append(part)
    return np.concatenate(parts).astype(np.float32)


def _synthetic_sweep() -> np.ndarray:
    """32 beams x 1,084 azimuths on flat ground among walls at 8 to 50 m."""
    rng = np.random.default_rng(0)
    elevation_rad = np.deg2rad(np.linspace(-30.7, 10.7, 32))[:, None]
    azimuth_rad = np.linspace(0, 2 * np.pi, 1084, endpoint=False)[None, :]
    wall_m = np.repeat(rng.uniform(8, 50, 40), 28)[: azimuth_rad.size][None, :]
    ground_m = np.where(elevation_rad < 0, 1.84 / np.maximum(-np.tan(elevation_rad), 1e-6), np.inf)
    distance_m = np.minimum(ground_m, wall_m) + rng.normal(0, 0.02, (32, azimuth_rad.size))
    points = np.stack(
        [
            distance_m * np.cos(azimuth_rad),
            distance_m * np.sin(azimuth_rad),
            distance_m * np.tan(elevation_rad),
            rng.uniform(0, 255, distance_m.shape),
            np.zeros(distance_m.shape),
        ],
        axis=-1,
    )
    return points.reshape(-1, 5).astype(np.float32)
