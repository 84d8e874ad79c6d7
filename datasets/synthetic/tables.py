"""Rows of the tables that nuscenes-devkit reads (schema of nuScenes v1.0)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from anybev.datasets.synthetic import rig
from anybev.datasets.synthetic.world import (
    KEY_FRAMES,
    SWEEPS_PER_KEY_FRAME,
    World,
    key_frame_times,
    near_ego,
    sweep_times,
)

VERSION = "v1.0-trainval"
Row = dict[str, Any]
Tables = dict[str, list[Row]]

TABLE_NAMES = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "map",
)
_CATEGORIES = (
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
)
_ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
_VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")
_EPOCH_US = 1_577_880_000_000_000
_SCENE_US = 60_000_000
ANNOTATED_RADIUS_M = 70.0
MAP_FILE = "maps/synthetic.png"


@dataclass(frozen=True)
class KeyFrameCounts:
    """What the lidar saw of every object in one key frame.

    Attributes:
        points: (N,) points in the written sweep.
        seen, alone: (N,) rays that end on the object as it stands, and if it stood alone.
    """

    points: np.ndarray
    seen: np.ndarray
    alone: np.ndarray

    def visibility_tokens(self) -> list[str]:
        """NuScenes' four bins of the visible share, "1" (0-40 %) to "4" (80-100 %)."""
        share = self.seen / np.maximum(self.alone, 1)
        return [str(1 + int(np.digitize(s, (0.4, 0.6, 0.8)))) for s in share]


def token(*parts: object) -> str:
    """A stable 32-digit token."""
    text = "/".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def timestamp_us(scene_number: int, t_s: float) -> int:
    """Time stamp of a moment of a scene, microseconds."""
    return _EPOCH_US + scene_number * _SCENE_US + round(t_s * 1e6)


def file_name(scene_name: str, channel: str, stamp_us: int, *, key: bool) -> str:
    """Path of a sensor's file below the data set's folder, in nuScenes' pattern."""
    end = ".pcd.bin" if channel == rig.LIDAR else ".jpg"
    folder = "samples" if key else "sweeps"
    return f"{folder}/{channel}/synthetic-{scene_name}__{channel}__{stamp_us}{end}"


def shared_tables(seed: int, camera_scale: float = 1.0) -> Tables:
    """Tables that do not depend on the scenes; ``map`` still lacks its log tokens."""
    tables: Tables = {name: [] for name in TABLE_NAMES}
    for name in _CATEGORIES:
        tables["category"].append(
            {"token": token("category", name), "name": name, "description": ""}
        )
    for name in _ATTRIBUTES:
        tables["attribute"].append(
            {"token": token("attribute", name), "name": name, "description": ""}
        )
    for i, level in enumerate(_VISIBILITIES):
        text = f"visible share of the object is {level[1:]} %"
        tables["visibility"].append({"token": str(i + 1), "level": level, "description": text})
    channels = [(rig.LIDAR, "lidar")] + [(c.channel, "camera") for c in rig.CAMERAS]
    for channel, modality in channels:
        tables["sensor"].append(
            {"token": token("sensor", channel), "channel": channel, "modality": modality}
        )
    tables["calibrated_sensor"] = _calibrations(camera_scale)
    tables["map"].append(
        {
            "token": token(seed, "map"),
            "category": "semantic_prior",
            "filename": MAP_FILE,
            "log_tokens": [],
        }
    )
    return tables


def scene_tables(
    seed: int,
    scene_name: str,
    scene_number: int,
    world: World,
    counts: list[KeyFrameCounts],
    camera_scale: float = 1.0,
) -> Tables:
    """Rows of one scene: everything but the shared tables."""
    rows = _SceneRows(seed, scene_name, scene_number, rig.image_size(camera_scale))
    rows.add_scene()
    rows.add_lidar(world)
    rows.add_cameras(world)
    rows.add_annotations(world, counts)
    return rows.tables


class _SceneRows:
    def __init__(self, seed: int, name: str, number: int, image_size: tuple[int, int]) -> None:
        self.seed, self.name, self.number = seed, name, number
        self.width, self.height = image_size
        self.tables: Tables = {n: [] for n in TABLE_NAMES}
        self.samples = [self.token("sample", k) for k in range(KEY_FRAMES)]

    def token(self, *parts: object) -> str:
        return token(self.seed, self.name, *parts)

    def add_scene(self) -> None:
        log = self.token("log")
        self.tables["log"].append(
            {
                "token": log,
                "logfile": f"synthetic-{self.name}",
                "vehicle": "synthetic",
                "date_captured": "2020-01-01",
                "location": "boston-seaport",
            }
        )
        self.tables["scene"].append(
            {
                "token": self.token("scene"),
                "log_token": log,
                "nbr_samples": KEY_FRAMES,
                "first_sample_token": self.samples[0],
                "last_sample_token": self.samples[-1],
                "name": self.name,
                "description": f"synthetic scene, seed {self.seed}",
            }
        )
        for k, (sample, t) in enumerate(zip(self.samples, key_frame_times(), strict=True)):
            self.tables["sample"].append(
                {
                    "token": sample,
                    "timestamp": timestamp_us(self.number, t),
                    "scene_token": self.token("scene"),
                    **_neighbours(self.samples, k),
                }
            )

    def add_lidar(self, world: World) -> None:
        times = sweep_times()
        tokens = [self.token(rig.LIDAR, i) for i in range(len(times))]
        for i, pose in enumerate(world.ego_poses(times)):
            # A sweep belongs to the key frame that it leads to.
            sample = self.samples[-(-i // SWEEPS_PER_KEY_FRAME)]
            key = i % SWEEPS_PER_KEY_FRAME == 0
            self._add_data(tokens, i, rig.LIDAR, sample, times[i], pose, key=key)

    def add_cameras(self, world: World) -> None:
        for camera in rig.CAMERAS:
            times = key_frame_times() - camera.lead_s
            tokens = [self.token(camera.channel, k) for k in range(KEY_FRAMES)]
            for k, pose in enumerate(world.ego_poses(times)):
                self._add_data(tokens, k, camera.channel, self.samples[k], times[k], pose, key=True)

    def _add_data(
        self,
        tokens: list[str],
        index: int,
        channel: str,
        sample: str,
        t_s: float,
        pose: np.ndarray,
        *,
        key: bool,
    ) -> None:
        stamp = timestamp_us(self.number, t_s)
        image = channel != rig.LIDAR
        self.tables["ego_pose"].append(
            {
                "token": tokens[index],
                "timestamp": stamp,
                "rotation": list(rig.yaw_quaternion(float(pose[2]))),
                "translation": [float(pose[0]), float(pose[1]), 0.0],
            }
        )
        self.tables["sample_data"].append(
            {
                "token": tokens[index],
                "sample_token": sample,
                "ego_pose_token": tokens[index],
                "calibrated_sensor_token": token("calibrated_sensor", channel),
                "timestamp": stamp,
                "fileformat": "jpg" if image else "pcd",
                "is_key_frame": key,
                "height": self.height if image else 0,
                "width": self.width if image else 0,
                "filename": file_name(self.name, channel, stamp, key=key),
                **_neighbours(tokens, index),
            }
        )

    def add_annotations(self, world: World, counts: list[KeyFrameCounts]) -> None:
        poses = world.object_poses(key_frame_times())
        speeds = world.object_speeds(key_frame_times())
        present = near_ego(world, ANNOTATED_RADIUS_M)
        visibility = [c.visibility_tokens() for c in counts]
        for i, item in enumerate(world.objects):
            frames = np.flatnonzero(present[i])
            if not len(frames):
                continue
            tokens = [self.token("annotation", i, k) for k in frames]
            instance = self.token("instance", i)
            for n, k in enumerate(frames):
                x, y, yaw = (float(v) for v in poses[i, k])
                attribute = item.attribute(float(speeds[i, k]))
                self.tables["sample_annotation"].append(
                    {
                        "token": tokens[n],
                        "sample_token": self.samples[k],
                        "instance_token": instance,
                        "visibility_token": visibility[k][i],
                        "attribute_tokens": [token("attribute", attribute)] if attribute else [],
                        "translation": [x, y, item.size_wlh_m[2] / 2],
                        "size": list(item.size_wlh_m),
                        "rotation": list(rig.yaw_quaternion(yaw)),
                        **_neighbours(tokens, n),
                        "num_lidar_pts": int(counts[k].points[i]),
                        "num_radar_pts": 0,
                    }
                )
            self.tables["instance"].append(
                {
                    "token": instance,
                    "category_token": token("category", item.cls.category),
                    "nbr_annotations": len(frames),
                    "first_annotation_token": tokens[0],
                    "last_annotation_token": tokens[-1],
                }
            )


def _calibrations(camera_scale: float) -> list[Row]:
    rows: list[Row] = [
        {
            "token": token("calibrated_sensor", rig.LIDAR),
            "sensor_token": token("sensor", rig.LIDAR),
            "translation": list(rig.LIDAR_POSITION_M),
            "rotation": list(rig.yaw_quaternion(rig.LIDAR_YAW_RAD)),
            "camera_intrinsic": [],
        }
    ]
    rows += [
        {
            "token": token("calibrated_sensor", camera.channel),
            "sensor_token": token("sensor", camera.channel),
            "translation": list(camera.position_m),
            "rotation": list(rig.camera_quaternion(camera)),
            "camera_intrinsic": rig.camera_intrinsic(rig.scaled(camera, camera_scale)).tolist(),
        }
        for camera in rig.CAMERAS
    ]
    return rows


def _neighbours(tokens: list[str], index: int) -> Row:
    return {
        "prev": tokens[index - 1] if index else "",
        "next": tokens[index + 1] if index + 1 < len(tokens) else "",
    }
