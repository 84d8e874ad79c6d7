"""Reading of a user's own frame as far as a config needs it, with errors that name the option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anybev.datasets.infos import SweepInfo
from anybev.datasets.user_calibration import Calibration, load_calibration
from anybev.datasets.user_frame import (
    UserPoints,
    find_images,
    find_sweeps,
    image_notes,
    load_points,
    read_image,
    seen_points,
    to_model,
)
from anybev.reporting.scene import SceneCamera

_IMAGES = "LoadMultiViewImageFromFiles"


@dataclass(frozen=True)
class Request:
    """What ``anybev infer`` was asked for; see its help for each entry."""

    config: Path
    checkpoint: Path
    calib: Path | None = None
    points: Path | None = None
    images: Path | None = None
    sweeps: Path | None = None
    out: Path = Path("infer_out")
    score_thr: float = 0.3
    device: str | None = None
    amp: bool = False
    load_dim: int | None = None
    dims: tuple[str, ...] | None = None
    intensity_scale: float | None = None
    drop_nan: bool = False
    index: int | None = None
    options: tuple[str, ...] = ()
    pictures: bool = True


@dataclass(frozen=True)
class UserFrame:
    """A user's frame, read and checked.

    Attributes:
        points: in the model's lidar frame.
        calibration: of the rig.
        images: the file of each camera, by its name.
        pictures: those files decoded, (H, W, 3) uint8, RGB.
        sweeps: earlier sweeps to read.
    """

    points: UserPoints
    calibration: Calibration
    images: dict[str, Path]
    pictures: dict[str, np.ndarray]
    sweeps: tuple[SweepInfo, ...] = ()


def step_kind(step: Mapping[str, Any]) -> str:
    """Type of a pipeline's step without its scope."""
    return str(step.get("type", "")).rpartition(".")[2]


def read_frame(request: Request, steps: Sequence[Mapping[str, Any]]) -> tuple[UserFrame, list[str]]:
    """Read what the pipeline needs, and pictures that are only drawn on.

    Args:
        request: which files.
        steps: the config's test pipeline.

    Returns:
        The frame, and what was assumed on the way.

    Raises:
        ValueError, OSError: something is missing or not what it must be.
    """
    image_steps = [step for step in steps if step_kind(step).endswith(_IMAGES)]
    with_images = bool(image_steps)
    upright = any(step.get("color_type") == "color" for step in image_steps)
    with_points = any(step_kind(step).startswith("LoadPoints") for step in steps)
    _check_request(request, with_points, with_images)
    points, notes = UserPoints(np.zeros((0, 5), np.float32), True), []
    if request.points is not None:
        points = load_points(
            request.points,
            load_dim=request.load_dim,
            dims=request.dims,
            intensity_scale=request.intensity_scale,
            drop_nan=request.drop_nan,
        )
        notes += points.notes
    calibration = Calibration("no calibration", ())
    if request.calib is not None:
        calibration = load_calibration(
            request.calib, index=request.index, points_file=request.points
        )
    names = ", ".join(camera.channel for camera in calibration.cameras)
    if with_images and not names:
        raise ValueError(f"infer: {request.calib} must have cameras, got none")
    if with_images and request.images is None:
        raise ValueError(
            f"infer: --images must be given: {request.config} uses cameras, got no picture of "
            f"{names}"
        )
    images: dict[str, Path] = {}
    if request.images is not None:
        stem = request.points.stem if request.points else ""
        images = find_images(calibration, request.images, stem)
        if not with_images:
            notes.append(f"{request.config.name} uses lidar alone: pictures are only drawn on")
    pictures = _read_images(calibration, images, upright, notes)
    points = to_model(points, calibration.lidar2model)
    sweeps: tuple[SweepInfo, ...] = ()
    if request.sweeps is not None:
        sweeps = _find_sweeps(request, calibration)
    elif calibration.sweeps and not points.has_age:
        notes.append(
            f"{calibration.source} lists {len(calibration.sweeps)} earlier sweeps that were not "
            "read; --sweeps DIR adds them"
        )
    frame = UserFrame(points, calibration, images, pictures, sweeps)
    return frame, notes + _check_projection(frame)


def _read_images(
    calibration: Calibration, images: Mapping[str, Path], upright: bool, notes: list[str]
) -> dict[str, np.ndarray]:
    by_name = {camera.channel: camera for camera in calibration.cameras}
    pictures = {}
    for name, path in images.items():
        pictures[name] = read_image(path, by_name[name], upright=upright)
        notes += image_notes(path, by_name[name], pictures[name], upright=upright)
    return pictures


def _check_request(request: Request, with_points: bool, with_images: bool) -> None:
    if with_points and request.points is None:
        raise ValueError(f"infer: --points must be given: {request.config} uses lidar, got none")
    if with_images and request.calib is None:
        raise ValueError(f"infer: --calib must be given: {request.config} uses cameras, got none")
    if request.images is not None and request.calib is None:
        raise ValueError("infer: --calib must be given with --images, got none")


def _find_sweeps(request: Request, calibration: Calibration) -> tuple[SweepInfo, ...]:
    if request.sweeps is None or request.points is None or not calibration.sweeps:
        raise ValueError(
            f"infer: --sweeps must come with --points and an info file that lists sweeps, got "
            f"{request.calib}"
        )
    if request.dims and "age" in request.dims:
        raise ValueError("infer: --sweeps must be left out when the points have ages, got both")
    return find_sweeps(calibration, request.sweeps, request.points.parent)


def _check_projection(frame: UserFrame) -> list[str]:
    """Points must show in the pictures: a wrong frame or direction of a matrix leaves none."""
    counts = {}
    for camera in scene_cameras(frame):
        height, width = camera.image.shape[:2]
        counts[camera.channel] = seen_points(frame.points.points_m, camera.lidar2img, width, height)
    if not len(frame.points.points_m) or not counts:
        return []
    if not any(counts.values()):
        raise ValueError(
            f"infer: points must project into a picture by {frame.calibration.source}, got none "
            f"in {', '.join(counts)}; try the other axes (now {frame.calibration.axes}), or "
            "cam2lidar in place of lidar2cam"
        )
    blind = [name for name, count in counts.items() if not count]
    return [f"no point projects into {', '.join(blind)}: check its calibration"] if blind else []


def scene_cameras(frame: UserFrame) -> list[SceneCamera]:
    """Pictures with their projection, for checks and figures."""
    model2lidar = np.linalg.inv(frame.calibration.lidar2model)
    return [
        SceneCamera(c.channel, frame.pictures[c.channel], c.cam2img @ c.lidar2cam @ model2lidar)
        for c in frame.calibration.cameras
        if c.channel in frame.pictures
    ]
