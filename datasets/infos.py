"""mmdetection3d's v2 info files: what is read is checked before anything is built on it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from anybev.datasets.safe_pickle import load_pickle
from anybev.files import whole_file

INFO_VERSION = "1.1"
IGNORED = -1
# Volume of a matrix's rows as a share of what rows of their lengths could span.
_SINGULAR = 1e-6

#: Category ids of info files: the data set's order, not a model's.
CATEGORIES = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)

#: Which annotated boxes count: those with a lidar or radar point, with a lidar point, or all.
KeepBoxes = Literal["valid", "lidar", "all"]


#: ``update(done, total)`` inside ``with progress(title) as update``.
Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


class InfoError(ValueError):
    """An info file does not hold what its format promises; names file, frame index and key."""


@dataclass(frozen=True)
class SweepInfo:
    """An earlier lidar sweep of a key frame.

    Attributes:
        path: the point file.
        timestamp_s: when it was taken.
        lidar2sensor: (4, 4) float64, from the key frame's lidar to the sweep's.
    """

    path: str
    timestamp_s: float
    lidar2sensor: np.ndarray


@dataclass(frozen=True)
class CameraInfo:
    """One camera of a key frame.

    Attributes:
        channel: the data set's name of the camera.
        path: the picture.
        cam2img: (4, 4) float64, camera frame in metres to pixels (intrinsics, padded).
        lidar2cam: (4, 4) float64, lidar frame at the sweep's time to camera frame at exposure.
        size: (H, W) of the picture where the file says it.
    """

    channel: str
    path: str
    cam2img: np.ndarray
    lidar2cam: np.ndarray
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class FrameInfo:
    """One key frame of an info file, as arrays.

    Attributes:
        token: the data set's name of the frame.
        timestamp_s: when the key sweep was taken.
        lidar_path: the point file of the key sweep.
        sweeps: earlier sweeps, nearest first.
        lidar2ego, ego2global: (4, 4) float64.
        boxes_lidar: (G, 9) float32: x, y, z_bottom, dx, dy, dz in metres, yaw in radians, vx, vy
            in metres a second.
        labels: (G,) int64, index into the configured classes, -1 for any other category.
        num_lidar_pts: (G,) int64.
        sample_idx: the file's number of the frame.
        cameras: in the order of the file; empty where it has none or none were asked for.
    """

    token: str
    timestamp_s: float
    lidar_path: str
    sweeps: tuple[SweepInfo, ...]
    lidar2ego: np.ndarray
    ego2global: np.ndarray
    boxes_lidar: np.ndarray
    labels: np.ndarray
    num_lidar_pts: np.ndarray
    sample_idx: int
    cameras: tuple[CameraInfo, ...] = ()


def load_infos(path: str | Path) -> dict[str, Any]:
    """Read a v2 info file without running code from it.

    Returns:
        ``{"metainfo": {...}, "data_list": [...]}``, the frames as written.

    Raises:
        FileNotFoundError: no such file.
        InfoError: not a v2 nuScenes info file.
        UnsafePickleError: the file names code.
    """
    content = load_pickle(path)
    if isinstance(content, dict) and "infos" in content:
        raise InfoError(
            f"infos: {path} must be of version {INFO_VERSION}, got a version-1 file (key 'infos'); "
            "try writing it again with tools/create_data.py"
        )
    if not isinstance(content, dict):
        raise InfoError(f"infos: {path} must hold a dict, got {type(content).__name__}")
    for key, kind in (("metainfo", dict), ("data_list", list)):
        if not isinstance(content.get(key), kind):
            got = type(content[key]).__name__ if key in content else "nothing"
            raise InfoError(f"infos: {path}: {key} must be a {kind.__name__}, got {got}")
    metainfo = content["metainfo"]
    for key, wanted in (("info_version", INFO_VERSION), ("dataset", "nuscenes")):
        if str(metainfo.get(key)) != wanted:
            raise InfoError(
                f"infos: {path}: metainfo.{key} must be {wanted!r}, got {metainfo.get(key)!r}; "
                "try writing it again with tools/create_data.py"
            )
    if not isinstance(metainfo.get("categories"), dict):
        raise InfoError(f"infos: {path}: metainfo.categories must map names to ids, got nothing")
    return content


def parse_frames(
    infos: Mapping[str, Any],
    classes: Sequence[str],
    *,
    source: str | Path,
    pts_prefix: str = "samples/LIDAR_TOP",
    sweeps_prefix: str = "sweeps/LIDAR_TOP",
    keep: KeepBoxes = "valid",
    image_folder: Callable[[str], str] | None = None,
    cameras: Sequence[str] | None = None,
) -> list[FrameInfo]:
    """Check every frame and turn it into arrays.

    Args:
        infos: what ``load_infos`` returned.
        classes: names in the order of the model's labels.
        source: the info file, for messages.
        pts_prefix: folder of key sweeps; names in the file lose theirs.
        sweeps_prefix: folder of the other sweeps.
        keep: which boxes to keep.
        image_folder: from a camera's channel to the folder of its pictures; None leaves cameras
            out.
        cameras: channels to read, in this order; None takes those of the first frame, in its order.

    Raises:
        InfoError: a frame lacks a key or holds a value of another form.
        ValueError: a class is not among the file's categories.
    """
    categories = infos["metainfo"]["categories"]
    unknown = [name for name in classes if name not in categories]
    if unknown:
        raise ValueError(
            f"infos: classes must be among the categories of {source} "
            f"({', '.join(categories)}), got {', '.join(unknown)}"
        )
    label_of = dict.fromkeys(categories.values(), IGNORED)
    label_of.update({categories[name]: label for label, name in enumerate(classes)})
    label_of[IGNORED] = IGNORED
    parser = _Parser(str(source), label_of, pts_prefix, sweeps_prefix, keep, image_folder, cameras)
    return [parser.frame(i, frame) for i, frame in enumerate(infos["data_list"])]


class _Parser:
    """Turns frames into arrays; ``where`` is what is being read, for messages."""

    def __init__(
        self,
        source: str,
        label_of: dict[int, int],
        pts_prefix: str,
        sweeps_prefix: str,
        keep: KeepBoxes,
        image_folder: Callable[[str], str] | None,
        cameras: Sequence[str] | None,
    ) -> None:
        if keep not in ("valid", "lidar", "all"):
            raise ValueError(f"infos: keep must be valid, lidar or all, got {keep!r}")
        self.source, self.label_of, self.keep = source, label_of, keep
        self.pts_prefix, self.sweeps_prefix = pts_prefix, sweeps_prefix
        self.image_folder, self.channels = image_folder, cameras
        self.index = 0

    def frame(self, index: int, raw: Any) -> FrameInfo:
        self.index = index
        lidar = self._get(raw, "lidar_points", dict)
        boxes, labels, counts = self._instances(raw)
        name = basename(self._get(lidar, "lidar_path", str, "lidar_points."))
        return FrameInfo(
            token=self._get(raw, "token", str),
            timestamp_s=self._number(raw, "timestamp"),
            lidar_path=f"{self.pts_prefix}/{name}" if self.pts_prefix else name,
            sweeps=tuple(self._sweeps(raw)),
            lidar2ego=self._matrix(lidar, "lidar2ego", "lidar_points."),
            ego2global=self._matrix(raw, "ego2global"),
            boxes_lidar=boxes,
            labels=labels,
            num_lidar_pts=counts,
            sample_idx=int(self._number(raw, "sample_idx")),
            cameras=tuple(self._cameras(raw)) if self.image_folder else (),
        )

    def _cameras(self, raw: dict[str, Any]) -> Iterator[CameraInfo]:
        images = self._get(raw, "images", dict)
        if self.channels is None:
            self.channels = tuple(images)
        if not self.channels:
            self._fail("images", "of a frame with cameras", "no camera")
        for channel in self.channels:
            if not isinstance(channel, str) or basename(channel) != channel:
                self._fail("images", "of cameras with names that are no paths", repr(channel))
            if channel not in images:
                self._fail("images", f"of a frame with {channel}", ", ".join(images) or "no camera")
            image = self._get(images, channel, dict, "images.")
            yield self._camera(channel, image, f"images.{channel}.")

    def _camera(self, channel: str, image: dict[str, Any], where: str) -> CameraInfo:
        folder = self.image_folder(channel) if self.image_folder else ""
        name = basename(self._get(image, "img_path", str, where))
        intrinsics = self._array(image, "cam2img", where)
        if intrinsics.shape not in ((3, 3), (4, 4)) or not np.isfinite(intrinsics).all():
            self._fail(f"{where}cam2img", "a finite 3 x 3 matrix", f"shape {intrinsics.shape}")
        cam2img = np.eye(4)
        cam2img[: len(intrinsics), : len(intrinsics)] = intrinsics
        lidar2cam = self._matrix(image, "lidar2cam", where)
        for key, matrix in (("cam2img", cam2img), ("lidar2cam", lidar2cam)):
            if is_singular(matrix[:3, :3]):
                self._fail(where + key, "invertible", f"a singular matrix {image[key]}")
        size = None
        if image.get("height") is not None and image.get("width") is not None:
            size = (
                int(self._number(image, "height", where)),
                int(self._number(image, "width", where)),
            )
        path = f"{folder}/{name}" if folder else name
        return CameraInfo(channel, path, cam2img, lidar2cam, size)

    def _sweeps(self, raw: dict[str, Any]) -> Iterator[SweepInfo]:
        for i, sweep in enumerate(self._list(raw, "lidar_sweeps")):
            where = f"lidar_sweeps[{i}]."
            lidar = self._get(sweep, "lidar_points", dict, where)
            stored = self._get(lidar, "lidar_path", str, f"{where}lidar_points.")
            prefix = self.pts_prefix if "samples" in stored else self.sweeps_prefix
            name = basename(stored)
            yield SweepInfo(
                f"{prefix}/{name}" if prefix else name,
                self._number(sweep, "timestamp", where),
                self._matrix(lidar, "lidar2sensor", f"{where}lidar_points."),
            )

    def _instances(self, raw: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kept = []
        for i, instance in enumerate(self._list(raw, "instances")):
            where = f"instances[{i}]."
            points = int(self._number(instance, "num_lidar_pts", where))
            if self.keep == "valid" and not self._get(instance, "bbox_3d_isvalid", object, where):
                continue
            if self.keep == "lidar" and points == 0:
                continue
            number = int(self._number(instance, "bbox_label_3d", where))
            if number not in self.label_of:
                self._fail(f"{where}bbox_label_3d", "a category id of metainfo", number)
            box = self._row(instance, "bbox_3d", 7, where)
            velocity = np.nan_to_num(self._row(instance, "velocity", 2, where, finite=False))
            kept.append((np.concatenate([box, velocity]), self.label_of[number], points))
        boxes = np.array([b for b, _, _ in kept], np.float32).reshape(-1, 9)
        boxes[:, 2] -= boxes[:, 5] * np.float32(0.5)  # files hold the centre, we the bottom
        labels = np.array([label for _, label, _ in kept], np.int64)
        return boxes, labels, np.array([n for _, _, n in kept], np.int64)

    def _get(self, holder: Any, key: str, kind: type, where: str = "") -> Any:
        if not isinstance(holder, dict) or key not in holder:
            self._fail(where + key, "present", "nothing")
        if not isinstance(holder[key], kind):
            self._fail(where + key, f"a {kind.__name__}", type(holder[key]).__name__)
        return holder[key]

    def _list(self, raw: Any, key: str) -> list[Any]:
        # Files leave out a list that would be empty.
        if isinstance(raw, dict) and raw.get(key) is None:
            return []
        value: list[Any] = self._get(raw, key, list)
        return value

    def _number(self, holder: Any, key: str, where: str = "") -> float:
        value = self._get(holder, key, object, where)
        if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            self._fail(where + key, "a finite number", repr(value))
        return float(value)

    def _row(
        self, holder: Any, key: str, length: int, where: str, finite: bool = True
    ) -> np.ndarray:
        value = self._array(holder, key, where)
        if value.shape != (length,) or (finite and not np.isfinite(value).all()):
            self._fail(where + key, f"{length} finite numbers", repr(holder[key]))
        return value

    def _matrix(self, holder: Any, key: str, where: str = "") -> np.ndarray:
        value = self._array(holder, key, where)
        if value.shape != (4, 4) or not np.isfinite(value).all():
            self._fail(where + key, "a finite 4 x 4 matrix", f"shape {value.shape}")
        return value

    def _array(self, holder: Any, key: str, where: str) -> np.ndarray:
        try:
            return np.asarray(self._get(holder, key, object, where), np.float64)
        except (TypeError, ValueError):
            self._fail(where + key, "numbers", repr(holder[key]))

    def _fail(self, key: str, contract: str, got: object) -> NoReturn:
        raise InfoError(
            f"infos: {self.source}, frame {self.index}: {key} must be {contract}, got {got!s:.80}"
        )


def is_singular(matrix: np.ndarray) -> bool:
    """Whether the rows of a (3, 3) matrix lie almost in a plane, whatever their lengths."""
    (a, b, c), (d, e, f), (g, h, i) = rows = matrix.tolist()
    volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    longest = math.prod(math.hypot(*row) for row in rows)
    return bool(abs(volume) <= _SINGULAR * longest)


def basename(path: str) -> str:
    """The file's name alone, so that an info file cannot point outside the data root."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def write_pickle(path: Path, content: Any) -> None:
    """Write a pickle that appears whole or not at all."""
    with whole_file(path) as stream:
        pickle.dump(content, stream, protocol=4)


@contextmanager
def silent(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows nothing."""
    yield lambda done, total: None
