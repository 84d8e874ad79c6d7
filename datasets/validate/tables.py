"""Checks of nuScenes' tables: records, tokens, references, links, time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anybev.datasets.infos import basename
from anybev.datasets.nuscenes_infos import CAMERAS
from anybev.datasets.nuscenes_tables import TABLES, NuScenesTables, Record, read_table
from anybev.datasets.validate.findings import Log
from anybev.datasets.validate.frames import Frame

Rows = dict[str, list[Record]]

# Kinds of values: s text, n finite number, b truth, 3 and 4 so many finite numbers, k intrinsics.
_KEYS: dict[str, dict[str, str]] = {
    "category": {"name": "s"},
    "sensor": {"channel": "s", "modality": "s"},
    "ego_pose": {"timestamp": "n", "rotation": "4", "translation": "3"},
    "scene": {
        "name": "s",
        "nbr_samples": "n",
        "first_sample_token": "s",
        "last_sample_token": "s",
    },
    "calibrated_sensor": {
        "sensor_token": "s",
        "rotation": "4",
        "translation": "3",
        "camera_intrinsic": "k",
    },
    "instance": {"category_token": "s"},
    "sample": {"timestamp": "n", "prev": "s", "next": "s", "scene_token": "s"},
    "sample_data": {
        "sample_token": "s",
        "ego_pose_token": "s",
        "calibrated_sensor_token": "s",
        "timestamp": "n",
        "is_key_frame": "b",
        "filename": "s",
        "prev": "s",
        "next": "s",
    },
    "sample_annotation": {
        "sample_token": "s",
        "instance_token": "s",
        "translation": "3",
        "size": "3",
        "rotation": "4",
        "num_lidar_pts": "n",
        "num_radar_pts": "n",
        "prev": "s",
        "next": "s",
    },
}
_REFERENCES: dict[str, dict[str, str]] = {
    "calibrated_sensor": {"sensor_token": "sensor"},
    "instance": {"category_token": "category"},
    "sample": {"scene_token": "scene"},
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
    },
    "sample_annotation": {"sample_token": "sample", "instance_token": "instance"},
}
_LINKED = ("sample", "sample_data", "sample_annotation")
_UNIT_TOLERANCE = 1e-3


def read_tables(root: Path, version: str, log: Log) -> Rows | None:
    """All tables, or None when one cannot be read."""
    rows: Rows = {}
    for table in TABLES:
        log.look("tables.files")
        try:
            rows[table] = read_table(root / version / f"{table}.json")
        except (OSError, ValueError) as error:
            log.find("tables.files", f"{version}/{table}.json", str(error))
    return rows if len(rows) == len(TABLES) else None


def check_tables(rows: Rows, version: str, log: Log) -> Rows:
    """Check records and links.

    Returns:
        The records that later checks can rely on: each has its keys and leads to records that are
        there; a link that leads astray is cut.
    """
    raw_tokens = {table: {str(row["token"]) for row in rows[table]} for table in TABLES}
    clean: dict[str, dict[str, Record]] = {}
    for table in _KEYS:  # in the order of who refers to whom
        where = f"{version}/{table}.json"
        clean[table] = {}
        for row in rows[table]:
            log.look("tables.tokens")
            log.look("tables.records")
            token = str(row["token"])
            if token in clean[table]:
                log.find("tables.tokens", where, f"token {token} occurs twice")
                continue
            problem = _malformed(row, {"token": "s", **_KEYS[table]})
            if problem:
                log.find("tables.records", f"{where}, {token}", problem)
                continue
            if _rotated(row, table, f"{where}, {token}", log) and _refers(
                row, table, raw_tokens, clean, f"{where}, {token}", log
            ):
                clean[table][token] = row
    for table in _LINKED:
        _check_links(table, clean[table], raw_tokens[table], f"{version}/{table}.json", log)
    _check_scenes(clean, version, log)
    _check_splits(clean["scene"], version, log)
    return {table: list(records.values()) for table, records in clean.items()}


def _malformed(row: Record, keys: Mapping[str, str]) -> str:
    for key, kind in keys.items():
        if key not in row:
            return f"{key} must be present, got nothing"
        if not _is_kind(row[key], kind):
            return f"{key} must be {_WORDS[kind]}, got {row[key]!r:.60}"
    return ""


_WORDS = {
    "s": "text",
    "n": "a finite number",
    "b": "true or false",
    "3": "3 finite numbers",
    "4": "4 finite numbers",
    "k": "3 x 3 finite numbers or an empty list",
}


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "s":
        return isinstance(value, str)
    if kind == "b":
        return isinstance(value, bool)
    if kind == "n":
        return _is_number(value)
    if not isinstance(value, list):
        return False
    if kind == "k":
        return not value or (len(value) == 3 and all(_is_kind(row, "3") for row in value))
    return len(value) == int(kind) and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    # 1e18: times are microseconds; an int may be too large for a float.
    return type(value) in (int, float) and abs(value) <= 1e18


def _rotated(row: Record, table: str, where: str, log: Log) -> bool:
    """Rotations are unit quaternions; a zero one cannot be used at all."""
    if "rotation" not in _KEYS[table]:
        return True
    log.look("calibration.poses")
    norm = math.hypot(*row["rotation"])
    if abs(norm - 1) > _UNIT_TOLERANCE:
        log.find(
            "calibration.poses", where, f"rotation must be a unit quaternion, got length {norm:g}"
        )
    return norm > _UNIT_TOLERANCE


def _refers(
    row: Record,
    table: str,
    raw: Mapping[str, set[str]],
    clean: Mapping[str, Mapping[str, Record]],
    where: str,
    log: Log,
) -> bool:
    whole = True
    for key, target in _REFERENCES.get(table, {}).items():
        log.look("tables.references")
        if row[key] not in raw[target]:
            log.find("tables.references", where, f"{key} leads to no {target}: {row[key]!r}")
        whole &= row[key] in clean[target]
    return whole


def _check_links(
    table: str, records: dict[str, Record], raw: set[str], where: str, log: Log
) -> None:
    cut = []
    for token, row in records.items():
        log.look("tables.links")
        for key, back in (("next", "prev"), ("prev", "next")):
            other = records.get(row[key])
            if row[key] and other is None:
                if row[key] not in raw:
                    log.find(
                        "tables.links", f"{where}, {token}", f"{key} leads nowhere: {row[key]!r}"
                    )
                cut.append((token, key))
            elif other is not None and other[back] != token:
                log.find(
                    "tables.links",
                    f"{where}, {token}",
                    f"{key} is {row[key]}, whose {back} is {other[back]!r}",
                )
                cut.append((token, key))
        if table == "sample_annotation":
            continue
        log.look("time.order")
        after = records.get(row["next"])
        if after is not None and after["timestamp"] <= row["timestamp"]:
            log.find(
                "time.order",
                f"{where}, {token}",
                f"timestamp {row['timestamp']} must be before that of the next, got "
                f"{after['timestamp']}",
            )
    for token, key in cut:
        records[token] = {**records[token], key: ""}


def _check_scenes(clean: dict[str, dict[str, Record]], version: str, log: Log) -> None:
    samples = Counter(row["scene_token"] for row in clean["sample"].values())
    for token, scene in list(clean["scene"].items()):
        where = f"{version}/scene.json, {scene['name']}"
        log.look("tables.links")
        chain = [s["token"] for s in samples_of(scene, clean["sample"])]
        if not chain:
            log.find("tables.links", where, "first_sample_token leads to no sample")
            del clean["scene"][token]
            continue
        if chain[-1] != scene["last_sample_token"]:
            log.find(
                "tables.links", where, f"the chain ends at {chain[-1]}, not at last_sample_token"
            )
        if not len(chain) == scene["nbr_samples"] == samples[token]:
            log.find(
                "tables.links",
                where,
                f"nbr_samples is {scene['nbr_samples']}, the chain has {len(chain)}, the table "
                f"{samples[token]}",
            )


def _check_splits(scenes: Mapping[str, Record], version: str, log: Log) -> None:
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    names = set().union(*official.values())
    for scene in scenes.values():
        log.look("tables.splits")
        if scene["name"] not in names:
            log.find(
                "tables.splits",
                f"{version}/scene.json",
                f"{scene['name']} is in no split of the devkit: create_data leaves it out",
            )


def samples_of(scene: Record, samples: Mapping[str, Record]) -> Iterator[Record]:
    """Key frames of a scene along ``next``, each at most once."""
    token, seen = scene["first_sample_token"], set()
    while token and token in samples and token not in seen:
        seen.add(token)
        yield samples[token]
        token = samples[token]["next"]


def check_sensors(tables: NuScenesTables, samples: list[Record], log: Log) -> list[Record]:
    """Key frames of one scene must have lidar and cameras; those with lidar are returned."""
    with_cameras = any(
        name in tables.key_frame_data[sample["token"]] for sample in samples for name in CAMERAS
    )
    kept = []
    for sample in samples:
        log.look("tables.sensors")
        data = tables.key_frame_data[sample["token"]]
        wanted = ("LIDAR_TOP", *CAMERAS) if with_cameras else ("LIDAR_TOP",)
        missing = [name for name in wanted if name not in data]
        if missing:
            log.find(
                "tables.sensors",
                f"{tables.version}/sample_data.json, sample {sample['token']}",
                f"no key frame of {', '.join(missing)}",
            )
        if "LIDAR_TOP" in data:
            kept.append(sample)
    return kept


def image_sizes(tables: NuScenesTables, sample: Record) -> dict[str, tuple[int, int]]:
    """Width and height of each camera's picture as the tables have them."""
    return {
        name: (int(row["width"]), int(row["height"]))
        for name, row in tables.key_frame_data[sample["token"]].items()
        if name in CAMERAS and _is_number(row.get("width")) and _is_number(row.get("height"))
    }


def difference(ours: Frame, theirs: Record) -> str:
    """What an info file's frame says otherwise than the tables, or ""."""
    if abs(ours.timestamp_s - theirs["timestamp"]) > 1e-3:
        return f"timestamp {ours.timestamp_s} against {theirs['timestamp']} in the tables"
    if basename(ours.lidar_path) != basename(theirs["lidar_points"]["lidar_path"]):
        return f"lidar_path {ours.lidar_path} is not the tables'"
    pairs = [
        ("lidar2ego", ours.lidar2ego, theirs["lidar_points"]["lidar2ego"]),
        ("ego2global", ours.ego2global, theirs["ego2global"]),
    ]
    for camera in ours.cameras:
        other = theirs["images"].get(camera.channel)
        if other is None:
            return f"camera {camera.channel} is not in the tables"
        if basename(camera.path) != basename(other["img_path"]):
            return f"img_path of {camera.channel} is not the tables'"
        pairs.append((f"cam2img of {camera.channel}", camera.cam2img, other["cam2img"]))
        pairs.append((f"lidar2cam of {camera.channel}", camera.lidar2cam, other["lidar2cam"]))
    boxes = [instance["bbox_3d"][:6] for instance in theirs["instances"]]
    if len(ours.boxes) != len(boxes):
        return f"{len(ours.boxes)} boxes against {len(boxes)} in the tables"
    if boxes:
        pairs.append(("a box", ours.boxes[:, :6], boxes))
    for what, mine, said in pairs:
        # Some writers store poses in single precision, metres from the map's origin.
        if not np.allclose(mine, np.asarray(said, np.float64), rtol=1e-5, atol=5e-3):
            return f"{what} is not the tables'"
    return ""
