"""nuScenes tables -> mmdetection3d's v2 info files, with the ground-truth database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anybev.datasets.gt_database import create_gt_database
from anybev.datasets.infos import (
    CATEGORIES,
    IGNORED,
    INFO_VERSION,
    Progress,
    silent,
    write_pickle,
)
from anybev.datasets.nuscenes_camera_instances import camera_instances
from anybev.datasets.nuscenes_tables import NuScenesTables, Record, rotation_matrix

CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
_SPLITS = {
    "v1.0-trainval": {"train": "train", "val": "val"},
    "v1.0-mini": {"train": "mini_train", "val": "mini_val"},
    "v1.0-test": {"test": "test"},
}


def create_nuscenes_infos(
    root: str | Path,
    out: str | Path,
    *,
    extra_tag: str = "nuscenes",
    version: str = "v1.0-trainval",
    max_sweeps: int = 10,
    workers: int = 1,
    with_gt_database: bool = True,
    progress: Progress = silent,
) -> list[Path]:
    """Write ``{extra_tag}_infos_{train,val,test}.pkl`` and the ground-truth database.

    Scenes whose first sweep is not on disk are left out, so part of the data set is fine;
    pictures need not be there. Files appear whole or not at all.

    Args:
        root: folder of the data set.
        out: folder to write to.
        extra_tag: start of the files' names.
        version: folder of the tables.
        max_sweeps: earlier sweeps of each key frame.
        workers: processes that cut out objects.
        with_gt_database: also cut out the train split's objects.
        progress: shows how far it is.

    Returns:
        The info files written.

    Raises:
        FileNotFoundError: tables are missing.
        ValueError: unknown version; damaged tables; no scene of a split's on disk.
    """
    if version not in _SPLITS:
        raise ValueError(f"nuscenes: version must be one of {', '.join(_SPLITS)}, got {version!r}")
    if max_sweeps < 0:
        raise ValueError(f"nuscenes: max_sweeps must be 0 or more, got {max_sweeps}")
    root, out = Path(root), Path(out)
    tables = NuScenesTables(root, version)
    samples = _samples_by_split(tables, version)
    if not any(samples.values()):
        raise ValueError(
            f"nuscenes: {root} must hold the lidar files of a scene of {version}, got none"
        )
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for split, chosen in samples.items():
        frames = []
        with progress(f"{split} frames") as update:
            for i, sample in enumerate(chosen):
                frames.append(frame_info(tables, sample, i, max_sweeps))
                update(i + 1, len(chosen))
        path = out / f"{extra_tag}_infos_{split}.pkl"
        write_pickle(path, {"metainfo": _metainfo(version), "data_list": frames})
        written.append(path)
    if with_gt_database and samples.get("train"):
        create_gt_database(
            root,
            out,
            extra_tag=extra_tag,
            max_sweeps=max_sweeps,
            workers=workers,
            progress=progress,
        )
    return written


def _metainfo(version: str) -> dict[str, Any]:
    return {
        "categories": {name: i for i, name in enumerate(CATEGORIES)},
        "dataset": "nuscenes",
        "version": version,
        "info_version": INFO_VERSION,
    }


def _samples_by_split(tables: NuScenesTables, version: str) -> dict[str, list[Record]]:
    from nuscenes.utils.splits import create_splits_scenes

    official: dict[str, Collection[str]] = create_splits_scenes()
    chosen: dict[str, list[Record]] = {}
    for split, name in _SPLITS[version].items():
        wanted = set(official[name])
        chosen[split] = [
            sample
            for scene in tables.scenes()
            if scene["name"] in wanted and _on_disk(tables, scene)
            for sample in tables.samples_of(scene)
        ]
    return chosen


def _on_disk(tables: NuScenesTables, scene: Record) -> bool:
    lidar = _lidar(tables, tables.get("sample", scene["first_sample_token"]))
    return Path(tables.root, lidar["filename"]).is_file()


def _lidar(tables: NuScenesTables, sample: Record) -> Record:
    try:
        return tables.key_frame_data[sample["token"]]["LIDAR_TOP"]
    except KeyError:
        raise ValueError(
            f"nuscenes: sample {sample['token']} must have a LIDAR_TOP key frame, got none"
        ) from None


def frame_info(tables: NuScenesTables, sample: Record, index: int, max_sweeps: int) -> Record:
    """One key frame as an info file has it.

    Args:
        tables: where everything about it is.
        sample: its record.
        index: its number in the file.
        max_sweeps: earlier sweeps to list.

    Raises:
        ValueError: it has no lidar key frame, or a token leads nowhere.
    """
    lidar = _lidar(tables, sample)
    lidar2ego, ego2global = tables.sensor2ego(lidar), tables.ego2global(lidar)
    lidar2global = ego2global @ lidar2ego
    global2lidar = np.linalg.inv(lidar2global)
    instances = [
        _instance(tables, annotation, global2lidar)
        for annotation in tables.annotations_of[sample["token"]]
    ]
    frame: Record = {
        "sample_idx": index,
        "token": sample["token"],
        "timestamp": sample["timestamp"] / 1e6,
        "ego2global": ego2global.tolist(),
        "images": _images(tables, sample, lidar2global),
        "lidar_points": {
            "num_pts_feats": 5,
            "lidar_path": Path(lidar["filename"]).name,
            "lidar2ego": lidar2ego.tolist(),
        },
        "instances": instances,
        "cam_instances": _cam_instances(tables, sample, [i["bbox_label"] for i in instances]),
    }
    sweeps = _sweeps(tables, lidar, lidar2global, max_sweeps)
    if sweeps:  # readers take a missing list for an empty one, not the other way round
        frame["lidar_sweeps"] = sweeps
    return frame


def _images(tables: NuScenesTables, sample: Record, lidar2global: np.ndarray) -> Record:
    images: Record = {}
    for name in CAMERAS:
        camera = tables.key_frame_data[sample["token"]].get(name)
        if camera is None:
            continue
        cam2ego = tables.sensor2ego(camera)
        cam2global = tables.ego2global(camera) @ cam2ego
        calibration = tables.get("calibrated_sensor", camera["calibrated_sensor_token"])
        images[name] = {
            "img_path": Path(camera["filename"]).name,
            "cam2img": [[float(v) for v in row] for row in calibration["camera_intrinsic"]],
            "cam2ego": cam2ego.tolist(),
            "sample_data_token": camera["token"],
            "timestamp": camera["timestamp"] / 1e6,
            "lidar2cam": (np.linalg.inv(cam2global) @ lidar2global).tolist(),
        }
    return images


def _cam_instances(tables: NuScenesTables, sample: Record, labels: Sequence[int]) -> Record:
    cameras = tables.key_frame_data[sample["token"]]
    return {
        name: camera_instances(tables, cameras[name], labels) for name in CAMERAS if name in cameras
    }


def _sweeps(
    tables: NuScenesTables, lidar: Record, lidar2global: np.ndarray, max_sweeps: int
) -> list[Record]:
    sweeps: list[Record] = []
    while lidar["prev"] and len(sweeps) < max_sweeps:
        lidar = tables.get("sample_data", lidar["prev"])
        sensor2ego, ego2global = tables.sensor2ego(lidar), tables.ego2global(lidar)
        lidar2sensor = np.linalg.inv(ego2global @ sensor2ego) @ lidar2global
        sweeps.append(
            {
                "timestamp": lidar["timestamp"] / 1e6,
                "sample_data_token": lidar["token"],
                "ego2global": ego2global.tolist(),
                "lidar_points": {
                    "lidar_path": lidar["filename"],
                    "lidar2ego": sensor2ego.tolist(),
                    "lidar2sensor": lidar2sensor.tolist(),
                },
            }
        )
    return sweeps


def _instance(tables: NuScenesTables, annotation: Record, global2lidar: np.ndarray) -> Record:
    from nuscenes.eval.detection.utils import category_to_detection_name

    name = category_to_detection_name(tables.category_of(annotation))
    label = CATEGORIES.index(name) if name else IGNORED
    turn = global2lidar[:3, :3]
    centre = turn @ np.asarray(annotation["translation"], np.float64) + global2lidar[:3, 3]
    heading = turn @ rotation_matrix(annotation["rotation"])
    # The yaw of z-y-x angles with the y axis's image, as pyquaternion takes it: in a tilted lidar
    # frame it differs in the fourth digit from the heading seen from above.
    yaw_rad = float(np.arctan2(-heading[0, 1], heading[0, 0]))
    width, length, height = annotation["size"]
    velocity = (turn @ (tables.velocity_global(annotation) * [1, 1, 0]))[:2]
    lidar_points, radar_points = annotation["num_lidar_pts"], annotation["num_radar_pts"]
    return {
        "bbox_label": label,
        "bbox_3d": [*centre.tolist(), float(length), float(width), float(height), yaw_rad],
        "bbox_3d_isvalid": bool(lidar_points + radar_points > 0),
        "bbox_label_3d": label,
        "num_lidar_pts": lidar_points,
        "num_radar_pts": radar_points,
        "velocity": velocity.tolist(),
    }
