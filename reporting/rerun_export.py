"""Frames as a recording for the rerun viewer (optional: needs rerun-sdk)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import rq

from anybev.datasets import boxes as geometry
from anybev.datasets.infos import Progress, silent
from anybev.envs import MachineError
from anybev.reporting.figures import class_colour, kept_predictions, safe_text
from anybev.reporting.report import Options, Shown, show
from anybev.reporting.run import Run
from anybev.reporting.scene import Scene, SceneCamera

_TRUTH_RGB = (255, 255, 255)


def require_rerun() -> Any:
    """The rerun module.

    Raises:
        MachineError: rerun-sdk is not installed.
    """
    try:
        return importlib.import_module("rerun")
    except ModuleNotFoundError as error:
        raise MachineError(
            "report: --rerun needs rerun-sdk, got none installed; try "
            ".venv/bin/pip install rerun-sdk==0.41.0"
        ) from error


def decompose(lidar2img: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intrinsics, rotation and place of the camera that a projection describes.

    Args:
        lidar2img: (4, 4), lidar frame to (u * depth, v * depth, depth, 1).

    Returns:
        (3, 3) intrinsics with 1 in the corner, (3, 3) rotation from the camera to the lidar frame,
        and (3,) the camera's place in the lidar frame in metres.

    Raises:
        ValueError: the matrix does not belong to a camera.
    """
    projection = np.asarray(lidar2img, np.float64)[:3]
    if abs(np.linalg.det(projection[:, :3])) < 1e-9:
        raise ValueError("rerun: lidar2img must be invertible, got a singular matrix")
    upper, rotation = rq(projection[:, :3])
    signs = np.diag(np.where(np.diagonal(upper) < 0, -1.0, 1.0))
    upper, rotation = upper @ signs, signs @ rotation
    place = -np.linalg.solve(projection[:, :3], projection[:, 3])
    return upper / upper[2, 2], rotation.T, place


def write_rerun(
    runs: Sequence[Run],
    out: Path,
    options: Options | None = None,
    *,
    shown: Sequence[Shown] | None = None,
    progress: Progress = silent,
) -> int:
    """Write the frames that a report of the runs shows, one step each on the timeline ``frame``.

    Args:
        runs: from ``read_runs``.
        out: ``.rrd`` file to write.
        options: which frames, from which score on.
        shown: what ``report.show`` made of runs and options, if it is there already.
        progress: shows how far it is.

    Returns:
        How many frames were written.

    Raises:
        MachineError: rerun-sdk is not installed.
        ValueError: no run has a frame to show.
    """
    rerun, options = require_rerun(), options or Options()
    shown = show(runs, options, progress) if shown is None else shown
    chosen = [(part, score.token) for part in shown for _, score in part.picked]
    if not chosen:
        reasons = "; ".join(note for part in shown for note in [*part.run.notes, *part.notes])
        raise ValueError(f"report: --rerun must have frames to write, got none: {reasons or '0'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    # One name a process: two writers must not share a half-written file.
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    stream = rerun.RecordingStream("anybev_report")
    try:
        try:
            stream.save(str(partial))
            stream.log("world", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
            with progress("rerun") as update:
                for step, (part, token) in enumerate(chosen):
                    _log_frame(rerun, stream, step, part, token, options.score_threshold)
                    update(step + 1, len(chosen))
            stream.flush()
        finally:
            stream.disconnect()
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return len(chosen)


def _log_frame(
    rerun: Any, stream: Any, step: int, part: Shown, token: str, score_threshold: float
) -> None:
    if part.frames is None:
        return
    scene, _ = part.frames.scene(token)
    stream.set_time("frame", sequence=step)
    # The viewer shows the newest of each entity: a camera that this frame lacks would stay.
    stream.log("world", rerun.Clear(recursive=True))
    stream.log("about", rerun.TextLog(safe_text(f"{part.run.name}: {token}")))
    _log(rerun, stream, scene, score_threshold)


def _log(rerun: Any, stream: Any, scene: Scene, score_threshold: float) -> None:
    points = scene.points_lidar_m[:, :3]
    shade = np.clip((points[:, 2] + 2.5) / 5.0, 0.15, 1)
    grey = np.repeat((shade * 255).astype(np.uint8)[:, None], 3, 1)
    stream.log(["world", "points"], rerun.Points3D(points, colors=grey, radii=0.03))
    kept = kept_predictions(scene, score_threshold)
    labels = scene.predicted_labels[kept]
    texts = [
        f"{safe_text(scene.classes[label])} {score:.2f}"
        for label, score in zip(labels, scene.predicted_scores[kept], strict=True)
    ]
    colours = [_rgb(class_colour(int(label))) for label in labels]
    predicted = scene.predicted_boxes_lidar[kept]
    stream.log(["world", "predictions"], _boxes(rerun, predicted, colours, texts))
    known = scene.true_labels >= 0
    names = [safe_text(scene.classes[label]) for label in scene.true_labels[known]]
    truth = _boxes(rerun, scene.true_boxes_lidar[known], [_TRUTH_RGB] * len(names), names)
    stream.log(["world", "ground_truth"], truth)
    for camera in scene.cameras:
        _log_camera(rerun, stream, camera)


def _boxes(
    rerun: Any, boxes: np.ndarray, colours: Sequence[tuple[int, int, int]], texts: Sequence[str]
) -> Any:
    half_rad = boxes[:, 6] / 2
    zero = np.zeros_like(half_rad)
    return rerun.Boxes3D(
        centers=geometry.gravity_centres(boxes),
        half_sizes=boxes[:, 3:6] / 2,
        quaternions=np.stack([zero, zero, np.sin(half_rad), np.cos(half_rad)], 1),
        colors=list(colours),
        labels=list(texts),
        show_labels=False,
    )


def _log_camera(rerun: Any, stream: Any, camera: SceneCamera) -> None:
    intrinsics, camera2lidar, place = decompose(camera.lidar2img)
    height, width = camera.image.shape[:2]
    path = ["world", "cameras", safe_text(camera.channel)]
    stream.log(path, rerun.Transform3D(translation=place, mat3x3=camera2lidar))
    pinhole = rerun.Pinhole(
        image_from_camera=intrinsics,
        resolution=[width, height],
        camera_xyz=rerun.ViewCoordinates.RDF,
    )
    stream.log(path, pinhole)
    stream.log([*path, "image"], rerun.Image(camera.image).compress(jpeg_quality=85))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
