"""A user's own frame through a config's test pipeline and model, behind ``anybev infer``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from anybev import envs
from anybev.datasets.infos import IGNORED
from anybev.datasets.plain_numbers import as_float
from anybev.datasets.sample import Detections, Sample, SampleKey, collate
from anybev.datasets.sampling import sample_rng
from anybev.datasets.transforms.base import Compose, Transform
from anybev.datasets.user_calibration import Calibration
from anybev.datasets.user_frame import UserPoints, boxes_to_user, to_frame
from anybev.device import Backend, current_backend, get_backend
from anybev.device.backend import ProbeState
from anybev.engine import checkpoint as checkpoints
from anybev.engine import config as configs
from anybev.engine.builder import build_detector
from anybev.engine.infer_frame import Request, UserFrame, read_frame, scene_cameras, step_kind
from anybev.engine.registry import TRANSFORMS, build
from anybev.files import whole_file
from anybev.reporting.scene import Scene
from anybev.reporting.status import write_json
from anybev.reporting.tables import text_table

FORMAT = "anybev-detections"
FORMAT_VERSION = 1
_TABLE_ROWS = 20


@dataclass(frozen=True)
class Result:
    """What was found in a frame.

    Attributes:
        record: content of detections.json.
        files: what was written.
        table: the best boxes, for a terminal.
        notes: what was assumed on the way, for people.
    """

    record: dict[str, Any]
    files: list[Path]
    table: str
    notes: list[str] = field(default_factory=list)


def infer(request: Request) -> Result:
    """Find objects in one frame and write detections.json, bev.png and cameras.png.

    Raises:
        ValueError, TypeError, RuntimeError, OSError: config, checkpoint, points, pictures,
            calibration or device are not what they must be; the message says which and how.
    """
    if not 0 <= request.score_thr <= 1:
        raise ValueError(f"infer: --score-thr must be in 0..1, got {request.score_thr}")
    config = configs.load(request.config, _options(request.options))
    dataset = _test_dataset(config)
    classes = [str(name) for name in dataset["metainfo"]["classes"]]
    steps = [dict(step) for step in dataset["pipeline"]]
    backend = _backend(request.device)
    frame, notes = read_frame(request, steps)
    model = build_detector(config.model)
    checkpoints.load_into(model, request.checkpoint)
    model.to(backend.device()).eval()
    seed = dataset.get("seed", config.get("randomness", {}).get("seed")) or 0
    sample = _sample(frame, steps, request.points, seed)
    found, seconds = _predict(model, sample, backend, request.amp)
    record = _record(request, frame, found, classes, backend, seconds)
    files = [request.out / "detections.json"]
    write_json(files[0], record)
    if request.pictures:
        files += _draw(_scene(frame, found, classes), request)
    return Result(record, files, _table(record), notes)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"infer: --cfg-options must be KEY=VALUE, got {pair!r}")
        options[key] = configs.option_value(value)
    return options


def _test_dataset(config: Config) -> Mapping[str, Any]:
    """The innermost data set of the test loader."""
    dataset = config.get("test_dataloader", {}).get("dataset", {})
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    for key in ("pipeline", "metainfo"):
        if key not in dataset:
            raise ValueError(
                f"infer: {config.filename} must have test_dataloader.dataset.{key}, got none"
            )
    found: Mapping[str, Any] = dataset
    return found


def _backend(name: str | None) -> Backend:
    if name is None:
        return current_backend()
    backend = get_backend(name)
    probe = backend.probe()
    if probe.state is not ProbeState.AVAILABLE:
        raise envs.MachineError(f"infer: device {name} must work here, got: {probe.detail}")
    return backend


def _given(points: UserPoints) -> Transform:
    """What stands in for reading a sweep's file."""

    def fill(sample: Sample, rng: np.random.Generator) -> Sample:
        sample.points_lidar_m = points.points_m.copy()
        return sample

    return fill


def _sample(
    frame: UserFrame, steps: Sequence[dict[str, Any]], points_file: Path | None, seed: int
) -> Sample:
    """The frame through the config's pipeline, reading of points replaced.

    A data set's frame draws what evaluation draws for it: its earlier sweeps.
    """
    configs.registries()  # registers the transforms
    replaced: dict[str, Callable[[], Transform] | None] = {
        "LoadPointsFromFile": lambda: _given(frame.points),
        "LoadAnnotations3D": None,
    }
    if frame.points.has_age:  # the file holds its sweeps already: none to add, none to pad
        replaced["LoadPointsFromMultiSweeps"] = None
    transforms: list[Transform] = []
    for step in steps:
        stand_in = replaced.get(step_kind(step))
        if stand_in is not None:
            transforms.append(stand_in())
        elif step_kind(step) not in replaced:
            transforms.append(build(TRANSFORMS, step))
    info = to_frame(points_file, frame.calibration, frame.images, frame.sweeps)
    key = SampleKey(0, frame.calibration.index)
    fresh = Sample(info.token, key.index, key=key, seed=seed, frame=info)
    sample = Compose(transforms)(fresh, sample_rng(seed, key))
    if sample is None:
        raise ValueError("infer: the pipeline must keep the frame, got it dropped by a transform")
    return sample


def _predict(
    model: nn.Module, sample: Sample, backend: Backend, amp: bool
) -> tuple[Detections, float]:
    """Boxes on the host, and how long the model took."""
    detector: Any = model
    batch = collate([sample]).to(backend.device())
    backend.synchronize()
    start = time.perf_counter()
    with torch.inference_mode(), backend.autocast(enabled=amp):
        found = detector.predict(batch)[0]
    backend.synchronize()
    seconds = time.perf_counter() - start
    order = torch.argsort(found.scores.float(), descending=True, stable=True)
    boxes, scores = found.boxes_lidar[order].float().cpu(), found.scores[order].float().cpu()
    return Detections(boxes, scores, found.labels[order].cpu()), seconds


def _scene(frame: UserFrame, found: Detections, classes: Sequence[str]) -> Scene:
    true_boxes, true_labels = _truth(frame.calibration, classes)
    return Scene(
        token=frame.calibration.token or "frame",
        points_lidar_m=frame.points.points_m,
        classes=classes,
        cameras=scene_cameras(frame),
        predicted_boxes_lidar=found.boxes_lidar.numpy(),
        predicted_scores=found.scores.numpy(),
        predicted_labels=found.labels.numpy(),
        true_boxes_lidar=true_boxes,
        true_labels=true_labels,
    )


def _truth(calibration: Calibration, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Annotated boxes of an info file: only drawn, so what is not whole is left out."""
    names = {as_float(number): name for name, number in calibration.categories.items()}
    boxes, labels = [], []
    for instance in calibration.instances:
        if not isinstance(instance, dict):
            continue
        box = np.array([as_float(value) for value in _listed(instance.get("bbox_3d"))])
        if box.shape == (7,) and np.isfinite(box).all() and instance.get("bbox_3d_isvalid", True):
            box[2] -= box[5] / 2
            boxes.append([*box, 0.0, 0.0])
            name = names.get(as_float(instance.get("bbox_label_3d")), "")
            labels.append(classes.index(name) if name in classes else IGNORED)
    return np.array(boxes, np.float32).reshape(-1, 9), np.array(labels, np.int64)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    return list(value) if isinstance(value, list | tuple) else []


def _record(
    request: Request,
    frame: UserFrame,
    found: Detections,
    classes: Sequence[str],
    backend: Backend,
    seconds: float,
) -> dict[str, Any]:
    boxes = boxes_to_user(found.boxes_lidar.numpy(), frame.calibration.lidar2model)
    boxes[:, 2] += boxes[:, 5] / 2
    kept = [i for i, score in enumerate(found.scores.tolist()) if score >= request.score_thr]
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "frame": "the lidar frame of the point file; metres, radians, metres a second",
        "axes": frame.calibration.axes,
        "config": str(request.config),
        "checkpoint": str(request.checkpoint),
        "points": str(request.points or ""),
        "images": {name: str(path) for name, path in frame.images.items()},
        "calibration": str(request.calib or ""),
        "device": backend.name,
        "amp": request.amp,
        "seconds": round(seconds, 4),
        "classes": list(classes),
        "score_threshold": request.score_thr,
        "boxes": [
            {
                "class": classes[int(found.labels[i])],
                "score": round(float(found.scores[i]), 5),
                "center_m": boxes[i, :3].tolist(),
                "size_m": boxes[i, 3:6].tolist(),
                "yaw_rad": float(boxes[i, 6]),
                "velocity_mps": boxes[i, 7:9].tolist(),
            }
            for i in kept
        ],
    }


def _draw(scene: Scene, request: Request) -> list[Path]:
    from anybev.reporting.figures import bev_figure, camera_figure, png

    figures = {"bev.png": bev_figure(scene, score_threshold=request.score_thr)}
    if scene.cameras:
        figures["cameras.png"] = camera_figure(scene, score_threshold=request.score_thr)
    paths = []
    for name, figure in figures.items():
        paths.append(request.out / name)
        with whole_file(paths[-1]) as stream:
            stream.write(png(figure))
    return paths


def _table(record: Mapping[str, Any]) -> str:
    boxes = record["boxes"]
    header = ["class", "score", "x m", "y m", "z m", "length", "width", "height", "yaw deg", "m/s"]
    rows = []
    for box in boxes[:_TABLE_ROWS]:
        numbers = [*box["center_m"], *box["size_m"], np.degrees(box["yaw_rad"])]
        speed = float(np.hypot(*box["velocity_mps"]))
        cells = [f"{value:.1f}" for value in [*numbers, speed]]
        rows.append([box["class"], f"{box['score']:.2f}", *cells])
    text = text_table(header, rows) if rows else "no box"
    more = f", the best {_TABLE_ROWS} above" if len(boxes) > _TABLE_ROWS else ""
    return f"{text}\n{len(boxes)} boxes of score {record['score_threshold']:g} and more{more}"
