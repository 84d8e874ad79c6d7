"""The evaluated frames of a run, found again on disk and turned into scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anybev.datasets.images.decode import read_image
from anybev.datasets.infos import FrameInfo, InfoError, load_infos, parse_frames
from anybev.datasets.points import read_points
from anybev.datasets.predictions import load_predictions
from anybev.reporting.run import number, read_json
from anybev.reporting.scene import Scene, SceneCamera

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
_MOST_DIGITS = 9  # of an index; int() refuses thousands of them with a text of its own
_LOAD_DIM = 5


class FramesError(ValueError):
    """The frames of a run cannot be shown; the message says why and what helps."""


@dataclass(frozen=True)
class Loading:
    """How an evaluation found and read its frames' files.

    Attributes:
        data_prefix: folders below the data root: ``pts``, ``img`` or a camera's channel.
        load_dim: numbers in a row of a point file.
        upright: pictures were turned as their EXIF orientation says.
    """

    data_prefix: Mapping[str, str] = field(default_factory=dict)
    load_dim: int = _LOAD_DIM
    upright: bool = False


@dataclass(frozen=True)
class Frames:
    """Frames with what was found in them and what is there.

    Attributes:
        classes: name of each label.
        class_range_m: ground distance from the ego origin within which a class is scored.
        infos: frame token -> its entry of the info file.
        predictions: frame token -> boxes, scores and labels.
        data_root: where points and pictures are looked for.
        loading: how.
        notes: what is missing in all frames.
    """

    classes: Sequence[str]
    class_range_m: Mapping[str, float]
    infos: Mapping[str, FrameInfo]
    predictions: Mapping[str, Found]
    data_root: Path
    loading: Loading = field(default_factory=Loading)
    notes: Sequence[str] = ()

    @property
    def tokens(self) -> list[str]:
        """Frames in the order of the info file."""
        return [token for token in self.infos if token in self.predictions]

    def find(self, name: str) -> str | None:
        """The token of the frame of that token or index; None where there is no such frame."""
        if name in self.infos and name in self.predictions:
            return name
        known = self.tokens
        if name.isdecimal() and len(name) <= _MOST_DIGITS and int(name) < len(known):
            return known[int(name)]
        return None

    def in_range(self, token: str, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N,) which boxes lie within the range in which their class is scored."""
        lidar2ego = self.infos[token].lidar2ego
        centres = boxes[:, :3] @ lidar2ego[:3, :3].T + lidar2ego[:3, 3]
        limits = np.array([self.class_range_m.get(name, np.inf) for name in self.classes])
        inside: np.ndarray = np.hypot(centres[:, 0], centres[:, 1]) <= limits[labels]
        return inside

    def truth(self, token: str) -> tuple[np.ndarray, np.ndarray]:
        """Annotated boxes of the model's classes that have a return, and their labels."""
        info = self.infos[token]
        known = info.labels >= 0
        return info.boxes_lidar[known], info.labels[known]

    def scene(self, token: str) -> tuple[Scene, list[str]]:
        """One frame to draw, and a note for each file that is not there or not readable."""
        info, notes = self.infos[token], []
        points = np.zeros((0, 3), np.float32)
        try:
            path = self._file(info.lidar_path, "LIDAR_TOP", "pts")
            points = read_points(path, load_dim=self.loading.load_dim).points
        except (OSError, ValueError) as error:
            notes.append(f"no points: {error}")
        cameras = []
        for camera in info.cameras:
            try:
                path = self._file(camera.path, camera.channel, camera.channel, "img")
                image = read_image(path, upright=self.loading.upright, what=camera.channel)
            except (OSError, ValueError) as error:
                notes.append(f"no picture: {error}")
            else:
                matrix = camera.cam2img @ camera.lidar2cam
                cameras.append(SceneCamera(camera.channel, image, matrix))
        boxes, scores, labels = self.predictions[token]
        true_boxes, true_labels = self.truth(token)
        scene = Scene(
            token=token,
            points_lidar_m=points,
            classes=self.classes,
            cameras=cameras,
            predicted_boxes_lidar=boxes,
            predicted_scores=scores,
            predicted_labels=labels,
            true_boxes_lidar=true_boxes,
            true_labels=true_labels,
        )
        return scene, notes

    def _file(self, name: str, channel: str, *prefixes: str) -> Path:
        """Where the evaluation or nuScenes keeps a file of that channel, else in the root."""
        known = self.loading.data_prefix
        below = next((known[key] for key in prefixes if key in known), f"samples/{channel}")
        usual = self.data_root / below / name
        beside = self.data_root / name
        return beside if not usual.is_file() and beside.is_file() else usual


def open_frames(evaluation_dir: Path, data_root: Path | None = None) -> Frames:
    """Find the frames of an evaluation.

    Args:
        evaluation_dir: folder with ``source.json`` and ``predictions.npz``.
        data_root: where the data set is now; where it was when None.

    Raises:
        FramesError: the evaluation kept no frames, the info file is gone or not readable, or its
            frames are others.
    """
    source_file, found_file = evaluation_dir / "source.json", evaluation_dir / "predictions.npz"
    if not source_file.is_file() or not found_file.is_file():
        raise FramesError("this evaluation kept no predictions: evaluate again to see frames")
    source = read_json(source_file)
    if not isinstance(source, dict) or not isinstance(source.get("classes"), list):
        raise FramesError(f"{source_file} must hold data_root, ann_file and classes")
    if not source.get("ann_file"):
        raise FramesError("this evaluation did not note its info file")
    ann_file, root = Path(str(source["ann_file"])), Path(str(source.get("data_root")))
    if data_root is not None:
        ann_file, root = data_root / ann_file.name, data_root
    if not ann_file.is_file():
        raise FramesError(
            f"the data set is not where it was: no {ann_file}; try --data-root with its new place"
        )
    classes = [str(name) for name in source["classes"]]
    try:
        state = ann_file.stat()
        frames, notes = _parsed(ann_file, state.st_mtime_ns, state.st_size, tuple(classes))
        predictions = load_predictions(found_file)
    except (OSError, ValueError) as error:
        raise FramesError(str(error)) from error
    absent = [token for token in predictions if token not in frames]
    if absent:
        raise FramesError(
            f"{ann_file} must hold the evaluated frames, got {len(absent)} missing (first "
            f"{absent[0]}); it was written again for other frames"
        )
    for token, (boxes, _, labels) in predictions.items():
        if not np.isfinite(boxes).all() or (len(labels) and not _fits(labels, len(classes))):
            raise FramesError(f"{found_file}: boxes of {token} must be finite and of known classes")
    return Frames(
        classes=classes,
        class_range_m=_ranges(source.get("class_range_m")),
        infos=frames,
        predictions=predictions,
        data_root=root,
        loading=_loading(source.get("loading")),
        notes=notes,
    )


@lru_cache(maxsize=2)  # runs that are compared share their info file
def _parsed(
    ann_file: Path, mtime_ns: int, size: int, classes: tuple[str, ...]
) -> tuple[Mapping[str, FrameInfo], tuple[str, ...]]:
    """Frames of an info file by token, and what is missing in them.

    Time and size only tell a file that was written again from the one before.
    """
    infos = load_infos(ann_file)
    has_images = any(isinstance(f, dict) and f.get("images") for f in infos["data_list"])

    def parse(with_images: bool) -> Mapping[str, FrameInfo]:
        frames = parse_frames(
            infos,
            classes,
            source=ann_file,
            pts_prefix="",
            sweeps_prefix="",
            image_folder=(lambda channel: "") if with_images else None,
        )
        return {frame.token: frame for frame in frames}

    try:
        return parse(has_images), ()
    except InfoError as error:
        if not has_images:
            raise
        # What is wrong with a camera leaves points and boxes; anything else is raised again.
        return parse(False), (f"no pictures: {error}",)


def _loading(found: Any) -> Loading:
    """What an evaluation noted; the defaults for older ones and for what has another form."""
    if not isinstance(found, dict):
        return Loading()
    prefix, load_dim = found.get("data_prefix"), found.get("load_dim")
    pairs = prefix.items() if isinstance(prefix, dict) else ()
    return Loading(
        data_prefix={str(key): value for key, value in pairs if isinstance(value, str)},
        load_dim=load_dim if type(load_dim) is int and load_dim >= 3 else _LOAD_DIM,
        upright=found.get("upright") is True,
    )


def _ranges(found: object) -> dict[str, float]:
    """Ranges of classes; whatever is no number limits nothing."""
    pairs = found.items() if isinstance(found, dict) else ()
    return {str(name): known for name, value in pairs if (known := number(value)) is not None}


def _fits(labels: np.ndarray, classes: int) -> bool:
    return bool(labels.min() >= 0 and labels.max() < classes)
