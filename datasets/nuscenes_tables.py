"""Reads the tables of nuScenes' schema, as far as lidar info files need them.

Maps and pictures are not looked at, so a data set without them is fine.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]

TABLES = (
    "category",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
)


class NuScenesTables:
    """The tables of one version, by token, with the reverse links that info files need.

    Args:
        root: folder of the data set.
        version: folder of the tables below it, ``v1.0-trainval``.
        rows: the tables' records where they have been read already.

    Raises:
        FileNotFoundError: the folder or a table is missing.
        ValueError: a table is no list of records, or a record lacks a key.
    """

    def __init__(
        self, root: Path, version: str, rows: Mapping[str, list[Record]] | None = None
    ) -> None:
        self.root, self.version = root, version
        if rows is None and not (root / version).is_dir():
            raise FileNotFoundError(
                f"nuscenes: {root / version} must be the folder of the tables, got none; try "
                "--version or --root-path"
            )
        self._records: dict[str, dict[str, Record]] = {}
        for table in TABLES:
            records = rows[table] if rows else read_table(root / version / f"{table}.json")
            self._records[table] = {row["token"]: row for row in records}
        self.annotations_of: dict[str, list[Record]] = defaultdict(list)
        for row in self._records["sample_annotation"].values():
            self.annotations_of[row["sample_token"]].append(row)
        self.key_frame_data: dict[str, dict[str, Record]] = defaultdict(dict)
        for row in self._records["sample_data"].values():
            if row["is_key_frame"]:
                self.key_frame_data[row["sample_token"]][self.channel(row)] = row

    def get(self, table: str, token: str) -> Record:
        """One record.

        Raises:
            ValueError: the table has no such token.
        """
        try:
            return self._records[table][token]
        except KeyError:
            raise ValueError(
                f"nuscenes: {self.root / self.version / table}.json must have token {token!r}, "
                "got no such record"
            ) from None

    def scenes(self) -> list[Record]:
        """All scenes, in the order of the table."""
        return list(self._records["scene"].values())

    def samples_of(self, scene: Record) -> list[Record]:
        """The key frames of a scene, in time."""
        samples, token = [], scene["first_sample_token"]
        while token:
            samples.append(self.get("sample", token))
            token = samples[-1]["next"]
        return samples

    def channel(self, sample_data: Record) -> str:
        """Name of the sensor, ``LIDAR_TOP``."""
        calibration = self.get("calibrated_sensor", sample_data["calibrated_sensor_token"])
        channel: str = self.get("sensor", calibration["sensor_token"])["channel"]
        return channel

    def sensor2ego(self, sample_data: Record) -> np.ndarray:
        """(4, 4) from the sensor to the vehicle."""
        return pose(self.get("calibrated_sensor", sample_data["calibrated_sensor_token"]))

    def ego2global(self, sample_data: Record) -> np.ndarray:
        """(4, 4) from the vehicle to the map, when the sensor fired."""
        return pose(self.get("ego_pose", sample_data["ego_pose_token"]))

    def category_of(self, annotation: Record) -> str:
        """Full category name, ``vehicle.bus.rigid``."""
        instance = self.get("instance", annotation["instance_token"])
        name: str = self.get("category", instance["category_token"])["name"]
        return name

    def attribute_of(self, annotation: Record) -> str:
        """Name of its first attribute, ``vehicle.parked``; empty where it has none."""
        tokens = annotation.get("attribute_tokens")
        if not tokens:
            return ""
        if "attribute" not in self._records:
            rows = read_table(self.root / self.version / "attribute.json")
            self._records["attribute"] = {row["token"]: row for row in rows}
        name: str = self.get("attribute", tokens[0])["name"]
        return name

    def velocity_global(self, annotation: Record, max_gap_s: float = 1.5) -> np.ndarray:
        """(3,) metres a second, by differences over the neighbouring key frames.

        NaN where there is no neighbour or the gap is longer than ``max_gap_s`` (twice that with
        neighbours on both sides), as the devkit's ``box_velocity`` has it.
        """
        first = last = annotation
        if annotation["prev"]:
            first = self.get("sample_annotation", annotation["prev"])
        if annotation["next"]:
            last = self.get("sample_annotation", annotation["next"])
        seconds = 1e-6 * self._time_us(last) - 1e-6 * self._time_us(first)
        both = bool(annotation["prev"] and annotation["next"])
        if first is last or seconds > max_gap_s * (2 if both else 1):
            return np.full(3, np.nan)
        velocity: np.ndarray = np.subtract(last["translation"], first["translation"]) / seconds
        return velocity

    def _time_us(self, annotation: Record) -> int:
        timestamp: int = self.get("sample", annotation["sample_token"])["timestamp"]
        return timestamp


def read_table(path: Path) -> list[Record]:
    """Records of one table.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is no list of records with tokens.
    """
    if not path.is_file():
        raise FileNotFoundError(f"nuscenes: {path} must be an existing table, got none")
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"nuscenes: {path} must be JSON, got {error}") from error
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "token" in r for r in rows):
        raise ValueError(
            f"nuscenes: {path} must be a list of records with tokens, got another form"
        )
    return rows


def rotation_matrix(quaternion_wxyz: Any) -> np.ndarray:
    """(3, 3) rotation of a quaternion, which need not have unit length."""
    q = np.asarray(quaternion_wxyz, np.float64)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def pose(record: Record) -> np.ndarray:
    """(4, 4) transform of a record with ``rotation`` and ``translation``."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(record["rotation"])
    matrix[:3, 3] = record["translation"]
    return matrix
