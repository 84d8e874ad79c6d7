"""A user's own frame: points, pictures and calibration in the terms of a data set's key frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from anybev.datasets.images import decode
from anybev.datasets.infos import CameraInfo, FrameInfo, SweepInfo
from anybev.datasets.point_files import Columns, read_columns
from anybev.datasets.points import FAR_OUT_M
from anybev.datasets.user_calibration import Calibration, UserCamera

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_INTENSITY_NAMES = ("intensity", "i", "reflectivity", "reflectance")
_MAX_INTENSITY = 255.0


@dataclass(frozen=True)
class UserPoints:
    """Points as the model takes them.

    Attributes:
        points_m: (P, 5) float32: x, y, z in metres, intensity 0..255, age in seconds.
        has_age: whether the file said how old each point is (several sweeps in one file).
        notes: what was assumed or changed, for people.
    """

    points_m: np.ndarray
    has_age: bool
    notes: list[str] = field(default_factory=list)


def load_points(
    path: Path,
    *,
    load_dim: int | None = None,
    dims: Sequence[str] | None = None,
    intensity_scale: float | None = None,
    drop_nan: bool = False,
) -> UserPoints:
    """Read a point file of any supported format.

    Args:
        path: see ``point_files.read_columns``.
        load_dim: see there.
        dims: see there. A column ``age`` holds seconds before the frame's time.
        intensity_scale: what makes intensities 0..255 of the file's; None takes 0..255 as they are
            and multiplies 0..1 by 255.
        drop_nan: leave out points that are not finite (beams without return) instead of refusing.

    Raises:
        FileNotFoundError, ValueError: see ``read_columns``; points that are not finite or beyond
            10 km; intensities or ages out of range.
    """
    columns = read_columns(path, load_dim=load_dim, dims=dims)
    notes: list[str] = []
    intensity = _intensity(path, columns, intensity_scale, notes)
    age = columns.get("age")
    rows = [columns["x"], columns["y"], columns["z"], intensity]
    points = np.stack([*rows, np.zeros_like(intensity) if age is None else age], axis=1)
    finite = np.isfinite(points).all(1)
    bad = int(points.shape[0] - np.count_nonzero(finite))
    if bad and not drop_nan:
        raise ValueError(
            f"points: {path} must hold finite numbers, got NaN or infinity in {bad} of "
            f"{len(points)} points; try --drop-nan where beams without return are stored so"
        )
    if bad == len(points):
        raise ValueError(f"points: {path} must hold finite points, got none of {len(points)}")
    if bad:
        notes.append(f"left out {bad} of {len(points)} points that are not finite")
        points = np.ascontiguousarray(points[finite])
    if np.abs(points[:, :3]).max() > FAR_OUT_M:
        raise ValueError(
            f"points: {path} must lie within {FAR_OUT_M:.0f} m of the lidar, got "
            f"{np.abs(points[:, :3]).max():.0f} m; points are in the lidar's frame, in metres"
        )
    if age is not None and not (points[:, 4].min() >= -0.1 and points[:, 4].max() <= 60):
        raise ValueError(
            f"points: {path}: age must be in 0..60 s, got {points[:, 4].min():g}.."
            f"{points[:, 4].max():g}"
        )
    return UserPoints(points, age is not None, notes)


def _intensity(path: Path, columns: Columns, scale: float | None, notes: list[str]) -> np.ndarray:
    name = next((name for name in _INTENSITY_NAMES if name in columns), None)
    if name is None:
        notes.append("the point file has no intensity: 0 for every point, which costs accuracy")
        return np.zeros_like(columns["x"])
    values = columns[name]
    finite = values[np.isfinite(values)]
    if scale is None:
        top = float(finite.max(initial=0.0))
        scale = 255.0 if 0 < top <= 1.0 else 1.0
        if scale != 1.0:
            notes.append("intensities of 0..1 were multiplied by 255 (--intensity-scale)")
    scaled: np.ndarray = values * np.float32(scale)
    finite = finite * np.float32(scale)
    low, high = float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
    if low < 0 or high > _MAX_INTENSITY:
        raise ValueError(
            f"points: {path}: intensity must be in 0..{_MAX_INTENSITY:.0f}, got {low:g}..{high:g}; "
            "try --intensity-scale, or another --load-dim or --dims"
        )
    return scaled


def find_images(calibration: Calibration, folder: Path, stem: str) -> dict[str, Path]:
    """The picture of every camera.

    A picture belongs to a camera by the calibration's ``image``, a path below the folder or else a
    file's name alone; else by its stem being the camera's name, or holding it between double
    underscores as nuScenes' file names do; else by its folder having the camera's name (of several
    pictures there, the one named like the points).

    Args:
        calibration: which cameras there are.
        folder: where pictures are, or in folders below it.
        stem: name of the point file without its suffix.

    Returns:
        Camera name -> file, in the order of the calibration.

    Raises:
        NotADirectoryError: no such folder.
        FileNotFoundError: cameras without a picture; lists them.
        ValueError: several pictures for one camera.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"images: {folder} must be a folder, got none")
    files = [
        path
        for path in sorted([*folder.glob("*"), *folder.glob("*/*")])
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    found: dict[str, Path] = {}
    for camera in calibration.cameras:
        candidates = _candidates(camera, files, folder, stem)
        if len(candidates) > 1:
            raise ValueError(
                f"images: {folder} must hold one picture of {camera.channel}, got "
                f"{', '.join(path.name for path in candidates[:4])}; try 'image' in the calibration"
            )
        if candidates:
            found[camera.channel] = candidates[0]
    missing = [c.channel for c in calibration.cameras if c.channel not in found]
    if missing:
        raise FileNotFoundError(
            f"images: {folder} must hold a picture of every camera of {calibration.source}, got "
            f"none of {', '.join(missing)}; a picture is found by the calibration's 'image', by "
            "its name or by its folder's name"
        )
    return found


def _candidates(camera: UserCamera, files: list[Path], folder: Path, stem: str) -> list[Path]:
    name = camera.channel
    if camera.image:
        wanted = Path(os.path.normpath(camera.image))
        leaves = wanted.is_absolute() or ".." in wanted.parts
        if not leaves and (folder / wanted).is_file():
            return [folder / wanted]
        return [path for path in files if path.name == wanted.name]
    by_stem = [path for path in files if path.stem == name or f"__{name}__" in path.stem]
    if by_stem:
        return by_stem
    inside = [path for path in files if path.parent.name == name]
    same = [path for path in inside if path.stem == stem]
    return same or inside


def find_sweeps(calibration: Calibration, *folders: Path) -> tuple[SweepInfo, ...]:
    """The earlier sweeps that an info file lists, nearest first.

    Raises:
        FileNotFoundError: one is in none of the folders.
    """
    found = []
    for sweep in calibration.sweeps:
        paths = [folder / sweep.path for folder in folders if (folder / sweep.path).is_file()]
        if not paths:
            raise FileNotFoundError(
                f"sweeps: {folders[0]} must hold the {len(calibration.sweeps)} sweeps that "
                f"{calibration.source} lists, got no {sweep.path}"
            )
        found.append(replace(sweep, path=str(paths[0])))
    return tuple(found)


def read_image(path: Path, camera: UserCamera, *, upright: bool = False) -> np.ndarray:
    """Decode one picture as the pipeline will, and compare its size with the calibration.

    Args:
        path: the file.
        camera: whose it is.
        upright: turn it as its EXIF orientation says.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: unreadable, too large, or of another size than the calibration says.
    """
    pixels = decode.read_image(path, upright=upright, what="images")
    height, width, _ = pixels.shape
    if camera.size and camera.size != (width, height):
        raise ValueError(
            f"images: {path} must be {camera.size[0]} x {camera.size[1]} as the calibration of "
            f"{camera.channel} says, got {width} x {height}"
        )
    return pixels


def image_notes(path: Path, camera: UserCamera, pixels: np.ndarray, *, upright: bool) -> list[str]:
    """What is odd about a picture, though it may be right.

    Args:
        path: the file.
        camera: whose it is.
        pixels: what ``read_image`` returned.
        upright: as there.
    """
    height, width, _ = pixels.shape
    u, v = camera.cam2img[0, 2], camera.cam2img[1, 2]
    notes = []
    if not (0 < u < width and 0 < v < height):
        notes.append(
            f"the principal point of {camera.channel}, ({u:.0f}, {v:.0f}), lies outside its "
            f"picture of {width} x {height}: right only where the picture was cropped"
        )
    if decode.read_header(path).orientation != 1 and not upright:
        notes.append(
            f"{path.name} is to be turned, says its EXIF; the config takes it as recorded "
            "(color_type='color' turns it)"
        )
    return notes


def to_frame(
    points_file: Path | None,
    calibration: Calibration,
    images: dict[str, Path],
    sweeps: tuple[SweepInfo, ...] = (),
) -> FrameInfo:
    """The frame as a pipeline takes it, in the model's lidar frame.

    Args:
        points_file: gives the frame its name.
        calibration: of the cameras in ``images``.
        images: what ``find_images`` returned, or nothing.
        sweeps: what ``find_sweeps`` returned, or nothing.
    """
    model2lidar = np.linalg.inv(calibration.lidar2model)
    cameras = tuple(
        CameraInfo(c.channel, str(images[c.channel]), c.cam2img.copy(), c.lidar2cam @ model2lidar)
        for c in calibration.cameras
        if c.channel in images
    )
    return FrameInfo(
        token=calibration.token or (points_file.stem if points_file else "frame"),
        timestamp_s=calibration.timestamp_s,
        lidar_path=str(points_file or ""),
        sweeps=sweeps,
        lidar2ego=np.eye(4),
        ego2global=np.eye(4),
        boxes_lidar=np.zeros((0, 9), np.float32),
        labels=np.zeros((0,), np.int64),
        num_lidar_pts=np.zeros((0,), np.int64),
        sample_idx=0,
        cameras=cameras,
    )


def to_model(points: UserPoints, lidar2model: np.ndarray) -> UserPoints:
    """The same points in the model's lidar frame."""
    moved = points.points_m.copy()
    xyz = points.points_m[:, :3].astype(np.float64)
    moved[:, :3] = xyz @ lidar2model[:3, :3].T + lidar2model[:3, 3]
    return replace(points, points_m=moved)


def boxes_to_user(boxes_model: np.ndarray, lidar2model: np.ndarray) -> np.ndarray:
    """Boxes (N, 9) of the model's lidar frame in the user's.

    Position, heading and velocity move; a box stays upright, so a tilted frame is approximated.
    """
    back = np.linalg.inv(lidar2model)
    moved = np.asarray(boxes_model, np.float64).copy()
    half = moved[:, 5:6] * [0.0, 0.0, 0.5]
    moved[:, :3] = (moved[:, :3] + half) @ back[:3, :3].T + back[:3, 3] - half
    yaw = moved[:, 6]
    heading = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], 1) @ back[:3, :3].T
    moved[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    velocity = np.concatenate([moved[:, 7:9], np.zeros((len(moved), 1))], 1) @ back[:3, :3].T
    moved[:, 7:9] = velocity[:, :2]
    return moved


def seen_points(points_m: np.ndarray, lidar2img: np.ndarray, width: int, height: int) -> int:
    """How many points project into a picture, in front of the camera."""
    image = points_m[:, :3].astype(np.float64) @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    depth = image[:, 2]
    front = depth > 0.1
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = image[:, 0] / depth, image[:, 1] / depth
        inside = front & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return int(np.count_nonzero(inside))
