"""A run folder with frames, small enough for unit tests: nothing is trained or scored for it."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anybev.datasets.predictions import save_predictions
from anybev.datasets.sample import Detections
from anybev.reporting.status import write_json

CLASSES = ("car", "pedestrian")
NOTE = "scored by the nuScenes devkit on synthetic scenes; not comparable with nuScenes"
_ERRORS = {"ATE": 0.2, "ASE": 0.1, "AOE": 0.3, "AVE": 0.4, "AAE": None}
_SIZE = (90, 160)
_FORWARD = [[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]]
_BACKWARD = [[-1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]]


def _true_box(index: int) -> list[float]:
    """Centre, size and yaw of the one object of a frame."""
    return [float(index), 12.0, -0.2, 4.5, 1.9, 1.6, 1.57]


def write_data(root: Path, classes: Sequence[str] = CLASSES, frames: int = 4) -> Path:
    """Points, two cameras' pictures and an info file; returns the info file."""
    draw = np.random.default_rng(0)
    (root / "samples" / "LIDAR_TOP").mkdir(parents=True, exist_ok=True)
    entries = []
    for index in range(frames):
        points = draw.normal(0, 15, (200, 5)).astype(np.float32)
        points.tofile(root / "samples" / "LIDAR_TOP" / f"{index}.bin")
        images = {}
        for channel, lidar2cam in (("CAM_FRONT", _FORWARD), ("CAM_BACK", _BACKWARD)):
            folder = root / "samples" / channel
            folder.mkdir(exist_ok=True)
            Image.new("RGB", _SIZE[::-1], (90, 120, 150)).save(folder / f"{index}.jpg")
            images[channel] = {
                "img_path": f"{index}.jpg",
                "cam2img": [[100.0, 0, 80.0], [0, 100.0, 45.0], [0, 0, 1.0]],
                "lidar2cam": lidar2cam,
            }
        instance = {
            "bbox_3d": _true_box(index),
            "bbox_label_3d": 0,
            "bbox_3d_isvalid": True,
            "num_lidar_pts": 5,
            "velocity": [0.0, 0.0],
        }
        entries.append(
            {
                "token": f"frame{index}",
                "timestamp": float(index),
                "sample_idx": index,
                "ego2global": np.eye(4).tolist(),
                "lidar_points": {"lidar_path": f"{index}.bin", "lidar2ego": np.eye(4).tolist()},
                "images": images,
                "instances": [instance],
            }
        )
    metainfo = {
        "categories": {name: number for number, name in enumerate(classes)},
        "dataset": "nuscenes",
        "info_version": "1.1",
    }
    path = root / "infos_val.pkl"
    path.write_bytes(pickle.dumps({"metainfo": metainfo, "data_list": entries}))
    return path


def detections(frames: int = 4) -> dict[str, Detections]:
    """In frame i the object, i metres off (so frames 0 and 1 are right), and a weak ghost."""
    found = {}
    for index in range(frames):
        box = np.array([*_true_box(index), 0.0, 0.0], np.float32)
        box[2] -= box[5] / 2
        ghost = box + np.array([0, 20, 0, 0, 0, 0, 0, 0, 0], np.float32)
        box[0] += index
        rows = torch.from_numpy(np.stack([box, ghost]))
        found[f"frame{index}"] = Detections(rows, torch.tensor([0.9, 0.4]), torch.tensor([0, 1]))
    return found


def metrics(classes: Sequence[str] = CLASSES, nds: float = 0.5) -> dict[str, Any]:
    """A ``metrics_summary.json``."""
    by_distance = {"0.5": 0.1, "1.0": 0.2, "2.0": 0.3, "4.0": 0.4}
    return {
        "nds": nds,
        "mean_ap": nds / 2,
        "tp_errors": {f"m{name}": value or 0.5 for name, value in _ERRORS.items()},
        "per_class_ap": dict.fromkeys(classes, nds / 2),
        "per_class_ap_by_threshold": dict.fromkeys(classes, by_distance),
        "per_class_tp": dict.fromkeys(classes, _ERRORS),
        "num_objects": dict.fromkeys(classes, 4),
        "num_frames": 4,
        "split": "val",
        "note": NOTE,
    }


def write_run(
    path: Path,
    ann_file: Path,
    *,
    classes: Sequence[str] = CLASSES,
    nds: float = 0.5,
    start: str = "20260101_000000",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder with everything a report shows.

    Args:
        path: the folder.
        ann_file: from ``write_data``.
        classes: names of the labels.
        nds: its score.
        start: name of the folder of the single start.
        facts: beside those of ``environment.json``.

    Returns:
        ``path``.
    """
    folder = path / start
    scored = folder / "nuscenes"
    write_json(scored / "metrics_summary.json", metrics(classes, nds))
    recall = [index / 100 for index in range(101)]
    falling = [1 - value for value in recall]
    by_distance = dict.fromkeys(("0.5", "1.0", "2.0", "4.0"), falling)
    curves = {"recall": recall, "precision": dict.fromkeys(classes, by_distance)}
    write_json(scored / "pr_curves.json", curves)
    source = {
        "data_root": str(ann_file.parent),
        "ann_file": str(ann_file),
        "classes": list(classes),
        "class_range_m": dict.fromkeys(classes, 50),
    }
    write_json(scored / "source.json", source)
    save_predictions(scored / "predictions.npz", detections())
    known = {
        "config": "tiny.py",
        "commit": "abc123",
        "torch": "2.13.0",
        "backend": "cpu",
        "peak_memory_mib": 512.0,
        "seconds": 60.0,
        "fps": 20.0,
        "times": {"train": {"iteration_s": 0.4, "data_s": 0.1}},
    }
    write_json(folder / "environment.json", known | dict(facts or {}))
    rows = [{"loss": 5 - 0.1 * step, "lr": 0.001, "step": step} for step in range(1, 11)]
    evaluations = [
        {"NDS": nds * epoch / 2, "mAP": 0.1, "FPS": 20.0, "step": epoch} for epoch in (1, 2)
    ]
    (folder / "vis_data").mkdir()
    lines = [json.dumps(row) for row in [*rows, *evaluations]]
    (folder / "vis_data" / "scalars.json").write_text("\n".join(lines) + "\n")
    (path / "tiny.py").write_text("model = dict(type='BEVFusion')\n")
    return path
