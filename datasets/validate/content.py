"""Checks that look at files: there, whole, readable, and in agreement with the calibration."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from anybev.datasets.images import read_header, read_image
from anybev.datasets.infos import basename
from anybev.datasets.points import FAR_OUT_M, MAX_POINTS
from anybev.datasets.user_frame import seen_points
from anybev.datasets.validate.findings import Log
from anybev.datasets.validate.frame_checks import FAR_M, usable
from anybev.datasets.validate.frames import Camera, Frame
from anybev.device.ops.points_in_boxes import points_in_boxes

Depth = Literal["fast", "default", "full"]

ROW_BYTES = 20
_MIN_POINTS = 100
#: A box said to hold so many points must hold one, and the other way round.
_SURE_POINTS = 5
_SEEN_POINTS = 10
_EMPTY_SHARE = 0.1
_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class Content:
    """What the files of a frame hold: findings, and sizes of pictures by camera."""

    log: Log
    sizes: dict[str, tuple[int, int]]


class FileIndex:
    """Sizes of the files below a root; every folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, dict[str, int]] = {}

    def _sizes(self, folder: str) -> dict[str, int]:
        if folder not in self._folders:
            path = self.root / folder
            sizes = {}
            if path.is_dir():
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.is_file():
                            sizes[entry.name] = entry.stat().st_size
            self._folders[folder] = sizes
        return self._folders[folder]

    def find(self, stored: str, *folders: str) -> tuple[Path, int] | None:
        """The file of that name in the first of the folders that has it, and its size."""
        name = basename(stored)
        for folder in (*folders, ""):
            size = self._sizes(folder).get(name)
            if size is not None:
                return self.root / folder / name, size
        return None

    def lidar(self, stored: str) -> tuple[Path, int] | None:
        """A key sweep."""
        return self.find(stored, "samples/LIDAR_TOP")

    def sweep(self, stored: str) -> tuple[Path, int] | None:
        """An earlier sweep, which may have been a key frame."""
        first, second = "sweeps/LIDAR_TOP", "samples/LIDAR_TOP"
        return self.find(stored, *((second, first) if "samples" in stored else (first, second)))

    def image(self, camera: Camera) -> tuple[Path, int] | None:
        """A camera's picture."""
        return self.find(camera.path, f"samples/{camera.channel}")


def check_files(frames: list[Frame], index: FileIndex, log: Log, *, with_images: bool) -> None:
    """Files are there, not empty, and point files hold whole rows."""
    seen: set[str] = set()
    pictures: set[tuple[str, str]] = set()
    for frame in frames:
        _check_points_file(frame.where, frame.lidar_path, index, "files.points", seen, log)
        for i, sweep in enumerate(frame.sweeps):
            where = f"{frame.where}, sweep {i}"
            _check_points_file(where, sweep.path, index, "files.sweeps", seen, log)
        for camera in frame.cameras if with_images else ():
            if (camera.channel, camera.path) in pictures:
                continue
            pictures.add((camera.channel, camera.path))
            log.look("files.images")
            found = index.image(camera)
            if found is None or found[1] == 0:
                state = "is missing" if found is None else "is empty"
                log.find(
                    "files.images", f"{frame.where}, {camera.channel}", f"{camera.path} {state}"
                )


def _check_points_file(
    where: str, stored: str, index: FileIndex, key: str, seen: set[str], log: Log
) -> None:
    # A key frame is a sweep of the next ones.
    name = basename(stored)
    if name in seen:
        return
    seen.add(name)
    log.look(key)
    found = index.lidar(stored) if key == "files.points" else index.sweep(stored)
    if found is None:
        log.find(key, where, f"{name} is missing")
        return
    size = found[1]
    if size == 0 or size % ROW_BYTES or size > MAX_POINTS * ROW_BYTES:
        log.find(
            key,
            where,
            f"{name} has {size} bytes, must have 1..{MAX_POINTS} rows of {ROW_BYTES} bytes",
        )


def check_content(frame: Frame, index: FileIndex, depth: Depth, *, points: bool) -> Content:
    """Open the files of one frame.

    Args:
        frame: a frame.
        index: where files are.
        depth: ``full`` decodes pictures and reads sweeps, else headers are enough.
        points: also read the key sweep.
    """
    log = Log()
    read = {c.channel: _check_image(frame, c, index, depth, log) for c in frame.cameras}
    sizes = {channel: size for channel, size in read.items() if size}
    known = {**frame.sizes, **sizes}
    for camera in frame.cameras:
        _check_center(frame, camera, known.get(camera.channel), log)
    if depth == "full":
        for i, sweep in enumerate(frame.sweeps):
            if "samples" in sweep.path:
                continue  # a key frame, read as such
            _read(f"{frame.where}, sweep {i}", index.sweep(sweep.path), log)
    cloud = _read(frame.where, index.lidar(frame.lidar_path), log) if points else None
    if cloud is not None:
        for camera in frame.cameras:
            if usable(camera):
                _check_projection(frame, camera, cloud, known.get(camera.channel), log)
        _check_counts(frame, cloud, log)
    return Content(log, sizes)


def _check_center(frame: Frame, camera: Camera, size: tuple[int, int] | None, log: Log) -> None:
    if size is None:
        return
    log.look("calibration.center")
    u, v = camera.cam2img[0, 2], camera.cam2img[1, 2]
    if not (0 < u < size[0] and 0 < v < size[1]):
        log.find(
            "calibration.center",
            f"{frame.where}, {camera.channel}",
            f"principal point ({u:.0f}, {v:.0f}) is outside {size[0]} x {size[1]}",
        )


def _read(where: str, found: tuple[Path, int] | None, log: Log) -> np.ndarray | None:
    """Points of a file that ``check_files`` has nothing against."""
    if found is None or found[1] == 0 or found[1] % ROW_BYTES or found[1] > MAX_POINTS * ROW_BYTES:
        return None
    path = found[0]
    log.look("points.values")
    try:
        points = np.fromfile(path, np.float32).reshape(-1, 5)
    except (OSError, ValueError) as error:
        log.find("points.values", where, f"{path.name} cannot be read: {error}")
        return None
    good = np.isfinite(points).all(1) & (np.abs(points[:, :3]) <= FAR_OUT_M).all(1)
    bad = int(len(points) - np.count_nonzero(good))
    if bad:
        log.find(
            "points.values",
            where,
            f"{path.name}: {bad} of {len(points)} points are not finite or beyond "
            f"{FAR_OUT_M:.0f} m",
        )
    elif len(points) < _MIN_POINTS:
        log.find("points.values", where, f"{path.name} holds {len(points)} points only")
    return points[good]


def _check_image(
    frame: Frame, camera: Camera, index: FileIndex, depth: Depth, log: Log
) -> tuple[int, int] | None:
    """Size of the picture, or None where there is none that can be read."""
    found = index.image(camera)
    if found is None or found[1] == 0:
        return None
    path, where = found[0], f"{frame.where}, {camera.channel}"
    log.look("images.readable")
    try:
        header = read_header(path)
        size = header.width, header.height
        if depth == "full":
            read_image(path, upright=False)  # its EXIF is a check of its own
        elif header.format == "JPEG" and not _ends_well(path):
            log.find("images.readable", where, f"{path.name} stops before its end")
    except (OSError, ValueError) as error:
        log.find("images.readable", where, str(error))
        return None
    log.look("images.orientation")
    if header.orientation != 1:
        what = f"{path.name} is to be turned, says its EXIF (orientation {header.orientation})"
        log.find("images.orientation", where, what)
    said = frame.sizes.get(camera.channel)
    if said:
        log.look("images.size")
        if said != size:
            log.find(
                "images.size",
                where,
                f"{path.name} is {size[0]} x {size[1]}, {said[0]} x {said[1]} in the tables",
            )
    return size


def _ends_well(path: Path) -> bool:
    """Whether a JPEG's end marker is among its last bytes: cameras pad, downloads stop short."""
    with path.open("rb") as stream:
        stream.seek(-min(64, path.stat().st_size), os.SEEK_END)
        return _JPEG_END in stream.read()


def _check_projection(
    frame: Frame, camera: Camera, cloud: np.ndarray, size: tuple[int, int] | None, log: Log
) -> None:
    log.look("calibration.projection")
    # Without a picture or a table, the principal point tells about where the middle is.
    width, height = size or (round(2 * camera.cam2img[0, 2]), round(2 * camera.cam2img[1, 2]))
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = camera.cam2img
    seen = seen_points(cloud, intrinsics @ camera.lidar2cam, width, height)
    if seen < _SEEN_POINTS:
        log.find(
            "calibration.projection",
            f"{frame.where}, {camera.channel}",
            f"{seen} of {len(cloud)} lidar points lie in front of it and in its picture",
        )


def _check_counts(frame: Frame, cloud: np.ndarray, log: Log) -> None:
    """Boxes hold about the points that the annotation says."""
    sound = (np.abs(frame.boxes) <= FAR_M).all(1) & (frame.boxes[:, 3:6] > 0).all(1)
    if not sound.any():
        return
    boxes = frame.boxes[sound].astype(np.float32)
    boxes[:, 2] -= boxes[:, 5] / 2
    near = cloud[(np.abs(cloud[:, :2]) <= np.abs(boxes[:, :2]).max() + 20).all(1), :3]
    inside = points_in_boxes(torch.from_numpy(np.ascontiguousarray(near)), torch.from_numpy(boxes))
    held = inside.sum(0).numpy()
    said, number = frame.num_lidar_pts[sound], np.flatnonzero(sound)
    full, empty = said >= _SURE_POINTS, said == 0
    log.look("boxes.points", int(full.sum()))
    log.look("boxes.uncounted", int(empty.sum()))
    for i in np.flatnonzero(full & (held == 0)):
        log.find(
            "boxes.points", f"{frame.where}, box {number[i]}", f"said to hold {said[i]}, holds none"
        )
    for i in np.flatnonzero(empty & (held >= _SURE_POINTS)):
        log.find(
            "boxes.uncounted",
            f"{frame.where}, box {number[i]}",
            f"said to hold none, holds {held[i]}",
        )


def check_image_sizes(frames: list[Frame], contents: list[Content], log: Log) -> None:
    """Pictures of one camera have one size, where no table says which."""
    of_channel: dict[str, list[tuple[str, tuple[int, int]]]] = defaultdict(list)
    for frame, content in zip(frames, contents, strict=True):
        for channel, size in content.sizes.items():
            if channel not in frame.sizes:
                of_channel[channel].append((frame.where, size))
    for channel, sizes in of_channel.items():
        usual = Counter(size for _, size in sizes).most_common(1)[0][0]
        for where, size in sizes:
            log.look("images.size")
            if size != usual:
                log.find(
                    "images.size",
                    f"{where}, {channel}",
                    f"{size[0]} x {size[1]}, most of its pictures are {usual[0]} x {usual[1]}",
                )


def check_rate(log: Log) -> None:
    """One empty box is a slip; many mean that boxes and points do not share a frame."""
    boxes, empty = log.looked["boxes.points"], log.found["boxes.points"]
    if not boxes:
        return
    log.look("boxes.frame", boxes)
    if empty > _EMPTY_SHARE * boxes:
        log.find(
            "boxes.frame",
            "all frames",
            f"{empty} of {boxes} boxes said to hold {_SURE_POINTS} points or more hold none: "
            "another frame, or another z?",
        )
