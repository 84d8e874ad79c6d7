"""A data set of a few frames that tests may damage, and a small synthetic one in full."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anybev.datasets.infos import CATEGORIES
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.transforms import (
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
)

CLASSES = ("car", "pedestrian", "barrier")
# Category, centre (x, y, z), size, yaw, velocity, lidar points, radar points.
_OBJECTS = (
    ("car", (10.0, 5.0, 0.0), (4.6, 1.9, 1.7), 0.3, (2.0, -1.0), 40, 0),
    ("pedestrian", (-8.0, 12.0, 0.0), (0.7, 0.7, 1.8), -2.0, (0.0, float("nan")), 0, 2),
    ("", (20.0, -15.0, 0.5), (2.0, 1.0, 1.0), 1.0, (0.0, 0.0), 9, 0),
    ("truck", (-20.0, -15.0, 0.5), (7.0, 2.5, 3.0), 1.0, (0.0, 0.0), 9, 0),
    ("car", (30.0, 30.0, 0.0), (4.6, 1.9, 1.7), 0.0, (0.0, 0.0), 0, 0),
)


def _turn(yaw_rad: float, offset_m: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    matrix[:2, :2] = [[c, -s], [s, c]]
    matrix[:3, 3] = offset_m
    return matrix


def _instance(category, centre, size, yaw_rad, velocity, lidar_points, radar_points):
    label = CATEGORIES.index(category) if category else -1
    return {
        "bbox_label": label,
        "bbox_3d": [*centre, *size, yaw_rad],
        "bbox_3d_isvalid": np.bool_(lidar_points + radar_points > 0),
        "bbox_label_3d": label,
        "num_lidar_pts": np.int64(lidar_points),
        "num_radar_pts": np.int64(radar_points),
        "velocity": list(velocity),
    }


class TinyData:
    """Six frames of 400 points with two sweeps each; frame 4 has no valid object, 5 no sweeps."""

    classes = CLASSES

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(7)
        for folder in ("samples", "sweeps"):
            (root / folder / "LIDAR_TOP").mkdir(parents=True)
        categories = {name: i for i, name in enumerate(CATEGORIES)}
        self.infos: dict[str, Any] = {
            "metainfo": {
                "categories": categories,
                "dataset": "nuscenes",
                "version": "v1.0-mini",
                "info_version": "1.1",
            },
            "data_list": [self._frame(i, rng) for i in range(6)],
        }

    def _frame(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        self.write(f"samples/LIDAR_TOP/key{index}.bin", self.points(rng))
        sweeps = []
        for i in range(0 if index == 5 else 2):
            name = f"sweeps/LIDAR_TOP/sweep{index}_{i}.bin"
            self.write(name, self.points(rng))
            lidar = {
                "lidar_path": f"./data/nuscenes/{name}",
                "lidar2ego": np.eye(4).tolist(),
                "lidar2sensor": _turn(0.05 * (i + 1), (0.5 * (i + 1), 0.0, 0.0)).tolist(),
            }
            stamp = {"timestamp": 100.0 + index - 0.05 * (i + 1), "ego2global": np.eye(4).tolist()}
            sweeps.append({**stamp, "sample_data_token": name, "lidar_points": lidar})
        frame = {
            "sample_idx": index,
            "token": f"token{index}",
            "timestamp": 100.0 + index,
            "ego2global": _turn(1.0, (100.0, 50.0, 0.0)).tolist(),
            "lidar_points": {
                "num_pts_feats": 5,
                "lidar_path": f"key{index}.bin",
                "lidar2ego": _turn(-1.5, (1.0, 0.0, 1.8)).tolist(),
            },
            "instances": [_instance(*o) for o in (_OBJECTS[4:] if index == 4 else _OBJECTS)],
        }
        if sweeps:
            frame["lidar_sweeps"] = sweeps
        return frame

    @staticmethod
    def points(rng: np.random.Generator, count: int = 400) -> np.ndarray:
        points = rng.uniform(-50, 50, (count, 5)).astype(np.float32)
        points[:, 2] = rng.uniform(-3, 2, count)
        points[:4, :2] = 0.5  # returns of the own vehicle
        points[:, 3:] = rng.integers(0, 32, (count, 2))
        return points

    def write(self, name: str, points: np.ndarray) -> None:
        points.astype(np.float32).tofile(self.root / name)

    def frame(self, index: int) -> dict[str, Any]:
        return self.infos["data_list"][index]

    def save(self, name: str = "nuscenes_infos_train.pkl") -> Path:
        path = self.root / name
        path.write_bytes(pickle.dumps(self.infos))
        return path

    def dataset(self, *more: Any, sweeps: int = 1, **arguments: Any) -> NuScenesDataset:
        load = LoadPointsFromMultiSweeps(sweeps, pad_empty_sweeps=True, remove_close=True)
        pipeline = [LoadPointsFromFile(), load, LoadAnnotations3D(), *more]
        return NuScenesDataset(self.save().name, self.root, self.classes, pipeline, **arguments)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyData:
    """A small data set of this test's own."""
    return TinyData(tmp_path)
