"""Calibration of a user's own rig: JSON, YAML, a v2 info file, or KITTI's calibration text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anybev.datasets.infos import SweepInfo, basename, load_infos
from anybev.datasets.plain_numbers import HUGE, as_float

#: Rotation of the user's lidar axes to the model's: x to the right, y forward, z up.
AXES = {
    "rfu": np.eye(4),
    "flu": np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
}
_MAX_TEXT_BYTES = 4 << 20
_ROTATION_TOLERANCE = 1e-2
_TOP_KEYS = ("axes", "lidar2model", "cameras")
_CAMERA_KEYS = ("image", "cam2img", "lidar2cam", "extrinsic", "cam2lidar", "width", "height")

EXAMPLE = """\
# Calibration for `anybev infer --calib`: YAML as here, or the same in JSON. Lengths are metres.
#
# axes: how the x, y, z axes of your point file lie. "rfu" (the default): x right, y forward, z up,
#   as nuScenes' LIDAR_TOP has them; "flu": x forward, y left, z up, as KITTI's Velodyne and ROS.
# lidar2model: instead of axes, a 4 x 4 transform from your lidar frame to x right, y forward, z up.
axes: rfu
cameras:
  CAM_FRONT: # its picture: CAM_FRONT.jpg, *__CAM_FRONT__*.jpg or CAM_FRONT/<any>.jpg in --images
    image: front.jpg # optional: its name, where those do not fit
    width: 1600 # optional: size that the intrinsics belong to; a picture of another is refused
    height: 900
    cam2img: # 3 x 3, 3 x 4 or 4 x 4: camera frame (x right, y down, z forward) to pixels
      - [1266.4, 0.0, 816.3]
      - [0.0, 1266.4, 491.5]
      - [0.0, 0.0, 1.0]
    lidar2cam: # 3 x 4 or 4 x 4, points of the lidar frame to the camera frame (also: extrinsic);
      # or give the inverse as cam2lidar
      - [1.0, 0.0, 0.0, 0.0]
      - [0.0, 0.0, -1.0, -0.3]
      - [0.0, 1.0, 0.0, -0.7]
      - [0.0, 0.0, 0.0, 1.0]
"""


@dataclass(frozen=True)
class UserCamera:
    """One calibrated camera.

    Attributes:
        channel: its name.
        cam2img: (4, 4) float64 intrinsics, camera frame in metres to pixels.
        lidar2cam: (4, 4) float64, the user's lidar frame to the camera frame.
        image: name of its picture, or "".
        size: width and height that the intrinsics belong to, or None.
    """

    channel: str
    cam2img: np.ndarray
    lidar2cam: np.ndarray
    image: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Calibration:
    """The rig of one frame.

    Attributes:
        source: the file, for messages.
        cameras: in the order of the file.
        lidar2model: (4, 4) float64, the user's lidar frame to x right, y forward, z up.
        axes: ``rfu``, ``flu``, or ``custom`` with a given lidar2model.
        token: the frame's name where the file has one.
        instances: annotated objects of an info file, as written there.
        categories: the info file's category names to ids.
        timestamp_s: of the frame, as the sweeps count.
        sweeps: earlier sweeps that an info file lists, nearest first; their paths are bare names.
        index: place of the frame in an info file, 0 elsewhere.
    """

    source: str
    cameras: tuple[UserCamera, ...]
    lidar2model: np.ndarray = field(default_factory=lambda: np.eye(4))
    axes: str = "rfu"
    token: str = ""
    instances: tuple[Mapping[str, Any], ...] = ()
    categories: Mapping[str, int] = field(default_factory=dict)
    timestamp_s: float = 0.0
    sweeps: tuple[SweepInfo, ...] = ()
    index: int = 0


def load_calibration(
    path: Path, *, index: int | None = None, points_file: Path | None = None
) -> Calibration:
    """Read a calibration file.

    Args:
        path: .json, .yaml, .yml (see ``EXAMPLE``), .pkl (v2 info file) or .txt (KITTI).
        index: frame of an info file; None takes the one whose sweep is ``points_file``, or the
            only one.
        points_file: the sweep.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged; a key is missing, unknown or of another form; a matrix is singular or
            no rotation.
    """
    if not path.is_file():
        raise FileNotFoundError(f"calib: {path} must be an existing file, got none")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        return _from_infos(path, index, points_file)
    if suffix == ".txt":
        return _from_kitti(path)
    if suffix not in (".json", ".yaml", ".yml"):
        raise ValueError(
            f"calib: {path} must end in .json, .yaml, .yml, .pkl or .txt, got {suffix!r}"
        )
    content = _read_text(path)
    _refuse_unknown(path, "top", content, _TOP_KEYS)
    cameras = content.get("cameras")
    if not isinstance(cameras, Mapping):
        raise ValueError(
            f"calib: {path}: cameras must map names to cameras, got {type(cameras).__name__}; try "
            "anybev infer --calib-example"
        )
    lidar2model, axes = _orientation(path, content)
    return Calibration(
        str(path),
        tuple(_camera(path, str(name), camera) for name, camera in cameras.items()),
        lidar2model,
        axes,
    )


def _read_text(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise ValueError(
            f"calib: {path} must be at most {_MAX_TEXT_BYTES} bytes, got {path.stat().st_size}"
        )
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(
            f"calib: {path} must be {path.suffix[1:].upper()}, got: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"calib: {path} must be a mapping, got {type(content).__name__}")
    return content


def _refuse_unknown(path: Path, where: str, content: Mapping, known: tuple[str, ...]) -> None:
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise ValueError(
            f"calib: {path}: keys of {where} must be among {', '.join(known)}, got "
            f"{', '.join(unknown)}"
        )


def _orientation(path: Path, content: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    if "lidar2model" in content:
        if "axes" in content:
            raise ValueError(f"calib: {path} must have axes or lidar2model, got both")
        return _rigid(path, "lidar2model", content["lidar2model"]), "custom"
    axes = content.get("axes", "rfu")
    if not isinstance(axes, str) or axes not in AXES:
        raise ValueError(f"calib: {path}: axes must be one of {', '.join(AXES)}, got {axes!r}")
    return AXES[axes].copy(), axes


def _camera(path: Path, name: str, camera: Any) -> UserCamera:
    if not isinstance(camera, Mapping):
        raise ValueError(
            f"calib: {path}: camera {name} must be a mapping, got {type(camera).__name__}"
        )
    _refuse_unknown(path, f"camera {name}", camera, _CAMERA_KEYS)
    poses = [key for key in ("lidar2cam", "extrinsic", "cam2lidar") if key in camera]
    if len(poses) != 1 or "cam2img" not in camera:
        raise ValueError(
            f"calib: {path}: camera {name} must have cam2img and one of lidar2cam, extrinsic and "
            f"cam2lidar, got {', '.join(str(key) for key in camera) or 'nothing'}"
        )
    pose = _rigid(path, f"{poses[0]} of {name}", camera[poses[0]])
    lidar2cam = np.linalg.inv(pose) if poses[0] == "cam2lidar" else pose
    image = camera.get("image", "")
    if not isinstance(image, str):
        raise ValueError(f"calib: {path}: image of {name} must be text, got {image!r}")
    return _build(path, name, camera["cam2img"], lidar2cam, image, _size(path, name, camera))


def _size(path: Path, name: str, camera: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = camera.get("width"), camera.get("height")
    if width is None and height is None:
        return None
    if type(width) is not int or type(height) is not int or width <= 0 or height <= 0:
        raise ValueError(
            f"calib: {path}: width and height of {name} must be positive integers, got {width!r} "
            f"and {height!r}"
        )
    return width, height


def _build(
    path: Path,
    name: str,
    cam2img: Any,
    lidar2cam: np.ndarray,
    image: str = "",
    size: tuple[int, int] | None = None,
) -> UserCamera:
    """A camera whose intrinsics are 3 x 3: a fourth column (stereo offset) goes into its pose."""
    matrix = _matrix(path, f"cam2img of {name}", cam2img, ((3, 3), (3, 4), (4, 4)))
    focal, condition = matrix[[0, 1], [0, 1]], np.linalg.cond(matrix[:3, :3])
    if not (focal > 0).all() or not condition < 1e9:
        raise ValueError(
            f"calib: {path}: cam2img of {name} must have positive focal lengths and an inverse, "
            f"got {focal.tolist()} and a matrix of rank {np.linalg.matrix_rank(matrix[:3, :3])}"
        )
    if not np.allclose(matrix[2, :3], [0, 0, 1]):
        raise ValueError(
            f"calib: {path}: third row of cam2img of {name} must be 0, 0, 1, got "
            f"{matrix[2, :3].tolist()}"
        )
    shift = np.eye(4)
    shift[:3, 3] = np.linalg.solve(matrix[:3, :3], matrix[:3, 3])
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = matrix[:3, :3]
    return UserCamera(name, intrinsics, shift @ lidar2cam, image, size)


def _matrix(path: Path, what: str, value: Any, shapes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """``value`` as (4, 4) float64, filled up from the identity."""
    try:
        given = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        given = np.empty(0)
    if given.shape not in shapes or not (np.abs(given) <= HUGE).all():
        wanted = " or ".join(f"{rows} x {columns}" for rows, columns in shapes)
        raise ValueError(
            f"calib: {path}: {what} must be {wanted} finite numbers, got {value!r:.80}"
        )
    matrix = np.eye(4)
    matrix[: given.shape[0], : given.shape[1]] = given
    return matrix


def _rigid(path: Path, what: str, value: Any) -> np.ndarray:
    matrix = _matrix(path, what, value, ((3, 4), (4, 4)))
    rotation = matrix[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    determinant = np.linalg.det(rotation)
    if off > _ROTATION_TOLERANCE or determinant < 0 or not np.allclose(matrix[3], [0, 0, 0, 1]):
        kind = "singular" if abs(determinant) < 1e-6 else f"determinant {determinant:.3g}"
        raise ValueError(
            f"calib: {path}: {what} must be a rotation (determinant 1) and a translation above "
            f"0, 0, 0, 1, got a matrix that is not ({kind}, off by {off:.2g})"
        )
    return matrix


def _from_infos(path: Path, index: int | None, points_file: Path | None) -> Calibration:
    infos = load_infos(path)
    frames = infos["data_list"]
    if index is None:
        index = _matching(path, frames, points_file)
    if not 0 <= index < len(frames):
        raise ValueError(f"calib: index must be in 0..{len(frames) - 1} of {path}, got {index}")
    frame = frames[index]
    images = frame.get("images") if isinstance(frame, dict) else None
    if not isinstance(images, dict) or not all(isinstance(c, dict) for c in images.values()):
        raise ValueError(f"calib: {path}: frame {index} must have images, got none")
    cameras = [
        UserCamera(
            **{
                **vars(_camera(path, name, {key: c[key] for key in _CAMERA_KEYS if key in c})),
                "image": _bare(c.get("img_path")),
            }
        )
        for name, c in images.items()
        if "cam2img" in c
    ]
    return Calibration(
        str(path),
        tuple(cameras),
        token=str(frame.get("token", "")),
        instances=_list(path, frame, "instances"),
        categories=infos["metainfo"]["categories"],
        timestamp_s=_seconds(path, frame),
        sweeps=tuple(
            _sweep(path, i, sweep) for i, sweep in enumerate(_list(path, frame, "lidar_sweeps"))
        ),
        index=index,
    )


def _list(path: Path, frame: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    value = frame.get(key)
    if not isinstance(value, list | tuple | None):
        raise ValueError(f"calib: {path}: {key} must be a list, got {type(value).__name__}")
    return tuple(value or ())


def _seconds(path: Path, holder: Any) -> float:
    value = holder.get("timestamp", 0.0) if isinstance(holder, dict) else None
    number = as_float(value)
    if not abs(number) <= HUGE:
        raise ValueError(f"calib: {path}: timestamp must be a finite number, got {value!r:.60}")
    return number


def _sweep(path: Path, number: int, sweep: Any) -> SweepInfo:
    lidar = sweep.get("lidar_points") if isinstance(sweep, dict) else None
    if not isinstance(lidar, dict):
        raise ValueError(f"calib: {path}: lidar_sweeps[{number}] must have lidar_points, got none")
    lidar2sensor = _rigid(path, f"lidar2sensor of sweep {number}", lidar.get("lidar2sensor"))
    return SweepInfo(_bare(lidar.get("lidar_path")), _seconds(path, sweep), lidar2sensor)


def _bare(stored: Any) -> str:
    """A file's name alone, of whatever an info file holds for one."""
    return basename(str(stored or ""))


def _matching(path: Path, frames: list[Any], points_file: Path | None) -> int:
    if len(frames) == 1:
        return 0
    name = points_file.name if points_file else None
    for i, frame in enumerate(frames):
        lidar = frame.get("lidar_points") if isinstance(frame, dict) else None
        if name and isinstance(lidar, dict) and _bare(lidar.get("lidar_path")) == name:
            return i
    raise ValueError(
        f"calib: {path} holds {len(frames)} frames, so index must say which, got none; try --index"
    )


def _from_kitti(path: Path) -> Calibration:
    """KITTI's object calibration: the left colour camera, named after its folder ``image_2``."""
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise ValueError(f"calib: {path} must be KITTI's calibration, got {path.stat().st_size} B")
    lines = [line.partition(":") for line in path.read_text(errors="replace").splitlines()]
    rows = {key.strip(): numbers.split() for key, _, numbers in lines}
    wanted = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
    found = {}
    for key, shape in wanted.items():
        try:
            values = np.array(rows[key], np.float64).reshape(shape)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"calib: {path} must be KITTI's calibration with {', '.join(wanted)}, got no {key} "
                f"of {shape[0]} x {shape[1]} numbers"
            ) from error
        found[key] = _matrix(path, key, values, ((3, 3), (3, 4)))
    lidar2cam = _rigid(path, "R0_rect @ Tr_velo_to_cam", found["R0_rect"] @ found["Tr_velo_to_cam"])
    camera = _build(path, "image_2", found["P2"], lidar2cam)
    return Calibration(str(path), (camera,), AXES["flu"].copy(), "flu")
