"""A data set of a few frames in nuScenes' layout: only the tables, for tests of the judge."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anybev.datasets.sample import Detections

CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
# Category in the tables, size (length, width, height) in metres, attribute when slow and when fast.
_KINDS: dict[str, tuple[str, tuple[float, float, float], str, str]] = {
    "car": ("vehicle.car", (4.6, 1.9, 1.7), "vehicle.parked", "vehicle.moving"),
    "truck": ("vehicle.truck", (6.9, 2.5, 2.8), "vehicle.parked", "vehicle.moving"),
    "construction_vehicle": (
        "vehicle.construction",
        (6.4, 2.8, 3.2),
        "vehicle.parked",
        "vehicle.moving",
    ),
    "bus": ("vehicle.bus.rigid", (11.0, 2.9, 3.5), "vehicle.stopped", "vehicle.moving"),
    "trailer": ("vehicle.trailer", (12.3, 2.9, 3.9), "vehicle.parked", "vehicle.moving"),
    "barrier": ("movable_object.barrier", (0.5, 2.5, 1.0), "", ""),
    "motorcycle": (
        "vehicle.motorcycle",
        (2.1, 0.8, 1.5),
        "cycle.without_rider",
        "cycle.with_rider",
    ),
    "bicycle": ("vehicle.bicycle", (1.7, 0.6, 1.3), "cycle.without_rider", "cycle.with_rider"),
    "pedestrian": (
        "human.pedestrian.adult",
        (0.7, 0.7, 1.8),
        "pedestrian.standing",
        "pedestrian.moving",
    ),
    "traffic_cone": ("movable_object.trafficcone", (0.4, 0.4, 1.1), "", ""),
}
_ATTRIBUTES = sorted({kind[i] for kind in _KINDS.values() for i in (2, 3)} - {""})
_STEP_S = 0.5
_LIDAR_YAW_RAD = -np.pi / 2
_LIDAR_OFFSET_M = (0.94, 0.0, 1.84)


def _pose(yaw_rad: float, translation_m: Sequence[float]) -> np.ndarray:
    """(4, 4) transform that turns about z, then moves."""
    pose = np.eye(4)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    pose[:2, :2] = [[c, -s], [s, c]]
    pose[:3, 3] = translation_m
    return pose


def _yaw_quaternion(yaw_rad: float) -> list[float]:
    return [float(np.cos(yaw_rad / 2)), 0.0, 0.0, float(np.sin(yaw_rad / 2))]


class _Scene:
    """Objects of one scene: of each class one at rest, one moving, one that no return reaches.

    Objects of one class stay at least 12 m apart and within 27 m of the ego vehicle, so that a
    shifted box never matches a neighbour and no class range cuts.
    """

    def __init__(self, name: str, frames: int, rng: np.random.Generator) -> None:
        self.name, self.frames = name, frames
        self.ego_yaw_rad = float(rng.uniform(-3, 3))
        self.ego_m = rng.uniform(300, 900, 2)
        self.objects: list[dict[str, Any]] = []
        for label, class_name in enumerate(CLASSES):
            bearing_rad = rng.uniform(-np.pi, np.pi)
            for number, (speed_mps, points) in enumerate([(0.0, 12), (3.0, 7), (0.0, 0)]):
                angle = bearing_rad + number * 2 * np.pi / 3
                distance_m = rng.uniform(14, 22)
                yaw_rad = float(rng.uniform(-np.pi, np.pi))
                size_m = np.array(_KINDS[class_name][1]) * rng.uniform(0.9, 1.1, 3)
                still = class_name in ("barrier", "traffic_cone")
                speed = 0.0 if still else speed_mps
                self.objects.append(
                    {
                        "token": f"{name}-{class_name}-{number}",
                        "label": label,
                        "centre_m": np.array(
                            [
                                self.ego_m[0] + distance_m * np.cos(angle),
                                self.ego_m[1] + distance_m * np.sin(angle),
                                size_m[2] / 2,
                            ]
                        ),
                        "velocity_mps": speed * np.array([np.cos(yaw_rad), np.sin(yaw_rad), 0.0]),
                        "yaw_rad": yaw_rad,
                        "size_m": size_m,
                        "points": points,
                        "attribute": _KINDS[class_name][3 if speed else 2],
                    }
                )

    def ego2global(self, frame: int) -> np.ndarray:
        """The vehicle drives 1 m a second along its heading."""
        heading = np.array([np.cos(self.ego_yaw_rad), np.sin(self.ego_yaw_rad)])
        return _pose(self.ego_yaw_rad, [*(self.ego_m + heading * frame * _STEP_S), 0.0])

    def centre_m(self, thing: Mapping[str, Any], frame: int) -> np.ndarray:
        """Gravity centre of an object in the global frame."""
        return np.asarray(thing["centre_m"] + thing["velocity_mps"] * frame * _STEP_S)

    def info(self, frame: int, index: int) -> dict[str, Any]:
        """The frame's v2 info entry."""
        lidar2ego = _pose(_LIDAR_YAW_RAD, _LIDAR_OFFSET_M)
        ego2global = self.ego2global(frame)
        global2lidar = np.linalg.inv(ego2global @ lidar2ego)
        turn_rad = self.ego_yaw_rad + _LIDAR_YAW_RAD
        instances = []
        for thing in self.objects:
            centre = global2lidar @ np.append(self.centre_m(thing, frame), 1.0)
            velocity = global2lidar[:2, :2] @ thing["velocity_mps"][:2]
            instances.append(
                {
                    "bbox_3d": [*centre[:3], *thing["size_m"], thing["yaw_rad"] - turn_rad],
                    "bbox_label_3d": thing["label"],
                    "velocity": velocity.tolist(),
                    "num_lidar_pts": thing["points"],
                    "num_radar_pts": 0,
                    "bbox_3d_isvalid": thing["points"] > 0,
                }
            )
        return {
            "sample_idx": index,
            "token": f"{self.name}-{frame}",
            "timestamp": frame * _STEP_S,
            "ego2global": ego2global.tolist(),
            "lidar_points": {
                "num_pts_feats": 5,
                "lidar_path": f"{self.name}-{frame}.bin",
                "lidar2ego": lidar2ego.tolist(),
            },
            "instances": instances,
        }


def _chain(tokens: Sequence[str], position: int) -> dict[str, str]:
    """``prev`` and ``next`` of one record in a chain."""
    return {
        "prev": tokens[position - 1] if position else "",
        "next": tokens[position + 1] if position + 1 < len(tokens) else "",
    }


def _scene_tables(scene: _Scene, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Append one scene's records."""
    names = [f"{scene.name}-{frame}" for frame in range(scene.frames)]
    tables["scene"].append(
        {
            "token": scene.name,
            "name": scene.name,
            "log_token": "log",
            "nbr_samples": scene.frames,
            "first_sample_token": names[0],
            "last_sample_token": names[-1],
        }
    )
    for frame, token in enumerate(names):
        stamp_us = int(1_500_000_000_000_000 + frame * _STEP_S * 1e6)
        tables["sample"].append(
            {
                "token": token,
                "timestamp": stamp_us,
                "scene_token": scene.name,
                **_chain(names, frame),
            }
        )
        tables["ego_pose"].append(
            {
                "token": token,
                "timestamp": stamp_us,
                "translation": scene.ego2global(frame)[:3, 3].tolist(),
                "rotation": _yaw_quaternion(scene.ego_yaw_rad),
            }
        )
        tables["sample_data"].append(
            {
                "token": token,
                "sample_token": token,
                "ego_pose_token": token,
                "calibrated_sensor_token": "lidar",
                "timestamp": stamp_us,
                "is_key_frame": True,
                "filename": f"samples/LIDAR_TOP/{token}.bin",
                **_chain(names, frame),
            }
        )
    for thing in scene.objects:
        class_name = CLASSES[thing["label"]]
        tables["instance"].append(
            {"token": thing["token"], "category_token": _KINDS[class_name][0]}
        )
        length, width, height = thing["size_m"].tolist()
        records = [f"{thing['token']}@{frame}" for frame in range(scene.frames)]
        for frame, token in enumerate(records):
            tables["sample_annotation"].append(
                {
                    "token": token,
                    "sample_token": names[frame],
                    "instance_token": thing["token"],
                    "attribute_tokens": [thing["attribute"]] if thing["attribute"] else [],
                    "translation": scene.centre_m(thing, frame).tolist(),
                    "size": [width, length, height],
                    "rotation": _yaw_quaternion(thing["yaw_rad"]),
                    "num_lidar_pts": thing["points"],
                    "num_radar_pts": 0,
                    **_chain(records, frame),
                }
            )


def write_nuscenes_tables(
    root: Path,
    *,
    scenes: Sequence[str] = ("scene-0003",),
    frames: int = 3,
    version: str = "v1.0-trainval",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Write the tables that the devkit's detection judge reads.

    Args:
        root: data root; ``<root>/<version>/*.json`` is written.
        scenes: official scene names; they decide the split.
        frames: key frames a scene.
        version: folder of the tables.
        seed: of the objects' places, sizes and headings.

    Returns:
        The v2 info entries of the frames; labels index ``CLASSES``.
    """
    rng = np.random.default_rng(seed)
    tables: dict[str, list[dict[str, Any]]] = {
        "category": [{"token": kind[0], "name": kind[0]} for kind in _KINDS.values()],
        "attribute": [{"token": name, "name": name} for name in _ATTRIBUTES],
        "visibility": [{"token": "4", "level": "v80-100"}],
        "sensor": [{"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": "lidar",
                "sensor_token": "lidar",
                "translation": list(_LIDAR_OFFSET_M),
                "rotation": _yaw_quaternion(_LIDAR_YAW_RAD),
                "camera_intrinsic": [],
            }
        ],
        "log": [{"token": "log", "location": "nowhere"}],
        "map": [{"token": "map", "log_tokens": ["log"], "filename": "maps/empty.png"}],
    }
    for name in ("scene", "sample", "ego_pose", "sample_data", "instance", "sample_annotation"):
        tables[name] = []
    infos: list[dict[str, Any]] = []
    for scene_name in scenes:
        scene = _Scene(scene_name, frames, rng)
        _scene_tables(scene, tables)
        infos += [scene.info(frame, len(infos) + frame) for frame in range(frames)]
    (root / "maps").mkdir(parents=True, exist_ok=True)
    (root / "maps" / "empty.png").touch()
    (root / version).mkdir(exist_ok=True)
    for name, records in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    return infos


def perfect_detections(infos: Sequence[Mapping[str, Any]]) -> dict[str, Detections]:
    """What a detector without fault finds: every annotated object that has a return."""
    found = {}
    for info in infos:
        seen = [thing for thing in info["instances"] if thing["bbox_3d_isvalid"]]
        boxes = np.array([[*thing["bbox_3d"], *thing["velocity"]] for thing in seen])
        boxes = boxes.reshape(-1, 9)
        boxes[:, 2] -= boxes[:, 5] / 2
        found[info["token"]] = Detections(
            boxes_lidar=torch.from_numpy(boxes.astype(np.float32)),
            scores=torch.linspace(0.9, 0.5, len(seen)),
            labels=torch.tensor([thing["bbox_label_3d"] for thing in seen], dtype=torch.int64),
        )
    return found
