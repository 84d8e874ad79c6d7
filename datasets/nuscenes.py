"""nuScenes key frames: info file, point files and pictures -> ``Sample``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from anybev.datasets.infos import FrameInfo, load_infos, parse_frames
from anybev.datasets.sample import CameraView, Sample, SampleKey
from anybev.datasets.sampling import sample_rng
from anybev.datasets.transforms.base import Compose, Transform
from anybev.datasets.transforms.images import BEVLoadMultiViewImageFromFiles
from anybev.datasets.transforms.loading import LoadPointsFromFile

_log = logging.getLogger(__name__)
_DATA_PREFIX = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"}
_MODALITY = {"use_lidar": True, "use_camera": False}
_MAX_ATTEMPTS = 100


class SampleError(ValueError):
    """A sample cannot be read; the message names it."""


class NuScenesDataset(Dataset[Sample]):
    """Key frames of one info file, through a pipeline of transforms.

    A sample is a function of (seed, epoch, index): loading order, workers and ranks do not change
    it. A training sample left without boxes, or dropped by a transform, is replaced by another
    frame that is drawn by the same rule.

    Args:
        ann_file: v2 info file; a relative path starts at ``data_root``.
        data_root: folder of the data set.
        classes: names in the order of the model's labels.
        pipeline: transforms, loading included.
        data_prefix: folders below ``data_root`` of key sweeps (``pts``), other sweeps (``sweeps``)
            and each camera's pictures (``CAM_FRONT='samples/CAM_FRONT'``, or ``img`` for all;
            ``samples/<channel>`` where nothing is said).
        modality: ``use_camera=True`` reads cameras from the info file.
        cameras: channels to read, in this order; None takes those of the info file.
        test_mode: every frame exactly once: none is replaced.
        filter_empty_gt: replace training samples without boxes.
        use_valid_flag: annotated boxes count with a lidar or radar point; else with a lidar point.
        seed: of augmentation.
        on_bad_sample: a sample that cannot be read raises (``stop``), or is replaced and counted
            (``skip``; at test time it stays in place, without points and with black pictures).

    Raises:
        FileNotFoundError, ValueError: the info file, see ``datasets.infos``.
    """

    def __init__(
        self,
        ann_file: str | Path,
        data_root: str | Path,
        classes: Sequence[str],
        pipeline: Sequence[Transform],
        *,
        data_prefix: Mapping[str, str] | None = None,
        modality: Mapping[str, bool] | None = None,
        cameras: Sequence[str] | None = None,
        test_mode: bool = False,
        filter_empty_gt: bool = True,
        use_valid_flag: bool = True,
        seed: int = 0,
        on_bad_sample: Literal["stop", "skip"] = "stop",
    ) -> None:
        if on_bad_sample not in ("stop", "skip"):
            raise ValueError(
                f"NuScenesDataset: on_bad_sample must be stop or skip, got {on_bad_sample!r}"
            )
        if seed < 0:
            raise ValueError(f"NuScenesDataset: seed must be 0 or more, got {seed}")
        self.data_root, self.classes = Path(data_root), tuple(classes)
        self.ann_file = self.data_root / ann_file
        self.test_mode, self.filter_empty_gt = test_mode, filter_empty_gt
        self.seed, self.on_bad_sample = seed, on_bad_sample
        self.pipeline = Compose(pipeline)
        use_camera = _check_modality(modality, cameras)
        infos = load_infos(self.ann_file)
        prefix = {**_DATA_PREFIX, **(data_prefix or {})}
        #: The info file's; ``loading`` is what finding and reading a frame's files again takes.
        self.metainfo: dict[str, Any] = infos["metainfo"] | {"loading": self._loading(prefix)}
        self.frames = parse_frames(
            infos,
            self.classes,
            source=self.ann_file,
            pts_prefix=str(self.data_root / prefix["pts"]),
            sweeps_prefix=str(self.data_root / prefix["sweeps"]),
            keep="valid" if use_valid_flag else "lidar",
            image_folder=self._image_folder(prefix) if use_camera else None,
            cameras=cameras,
        )
        if not self.frames:
            raise ValueError(f"NuScenesDataset: {self.ann_file} must hold frames, got none")
        self._views: list[CameraView] | None = None
        # In shared memory: workers write, the main process reads.
        self._bad = torch.zeros(len(self.frames), dtype=torch.bool)
        self._dropped = torch.zeros(len(self.frames), dtype=torch.int64)
        shared: list[Any] = [self._bad, self._dropped]
        for tensor in shared:
            tensor.share_memory_()

    def _image_folder(self, prefix: Mapping[str, str]) -> Callable[[str], str]:
        def folder(channel: str) -> str:
            below = prefix.get(channel, prefix.get("img", f"samples/{channel}"))
            return str(self.data_root / below)

        return folder

    def _loading(self, prefix: Mapping[str, str]) -> dict[str, Any]:
        steps = self.pipeline.transforms
        points = [step for step in steps if isinstance(step, LoadPointsFromFile)]
        pictures = [step for step in steps if isinstance(step, BEVLoadMultiViewImageFromFiles)]
        return {
            "data_prefix": dict(prefix),
            "load_dim": points[0].load_dim if points else 5,
            "upright": any(step.upright for step in pictures),
        }

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        """The sample of a key; an int stands for epoch 0.

        Raises:
            IndexError: no such index.
            SampleError: the sample cannot be read and ``on_bad_sample`` is ``stop``.
        """
        key = key if isinstance(key, SampleKey) else SampleKey(0, int(key))
        return self.load(key.index, key)

    def load(self, frame_index: int, key: SampleKey) -> Sample:
        """Frame ``frame_index``, augmented as ``key`` says (a resampled set has its own keys)."""
        if not 0 <= frame_index < len(self.frames):
            raise IndexError(
                f"NuScenesDataset: index must be in 0..{len(self) - 1}, got {frame_index}"
            )
        for attempt in range(_MAX_ATTEMPTS):
            rng = sample_rng(self.seed, key, attempt)
            if attempt:
                frame_index = int(rng.integers(len(self.frames)))
            sample = self._attempt(frame_index, key, rng)
            if sample is not None:
                return sample
        raise SampleError(
            f"sample {key.index} of {self.ann_file}: one of {_MAX_ATTEMPTS} draws must be readable "
            "and have boxes, got none"
        )

    def _attempt(self, index: int, key: SampleKey, rng: np.random.Generator) -> Sample | None:
        frame = self.frames[index]
        needs_boxes = self.filter_empty_gt and not self.test_mode
        if needs_boxes and not (frame.labels >= 0).any():
            return None
        fresh = _fresh(frame, index, key, self.seed)
        try:
            sample = self.pipeline(fresh, rng)
            _check_sizes(sample)
        except (OSError, ValueError) as error:
            return self._unreadable(index, key, error)
        if self.test_mode and sample is None:
            raise SampleError(
                f"sample {index} ({frame.token}) must stay at test time, got dropped by a transform"
            )
        if sample is None or (needs_boxes and not (sample.labels >= 0).any()):
            return None
        self._dropped[index] = sample.dropped_points
        sample.frame = None
        return sample

    def _unreadable(self, index: int, key: SampleKey, error: Exception) -> Sample | None:
        token = self.frames[index].token
        message = f"sample {index} ({token}) of {self.ann_file} must be readable, got: {error}"
        if self.on_bad_sample == "stop":
            raise SampleError(f"{message}; try on_bad_sample='skip' to go on without it") from error
        if not self._bad[index]:
            _log.warning("%s; skipped", message)
        self._bad[index] = True
        if not self.test_mode:
            return None
        blank = _fresh(self.frames[index], index, key, self.seed)
        blank.cameras = self._black_pictures(index)
        blank.frame = None
        return blank

    def _black_pictures(self, index: int) -> list[CameraView]:
        """Pictures for a frame that cannot be read, of the size that the other frames have."""
        frame = self.frames[index]
        if not frame.cameras:
            return []
        if self._views is None:
            self._views = self._views_of_a_readable_frame()
        return [
            CameraView(
                camera.channel,
                np.zeros_like(view.image),
                camera.cam2img,
                camera.lidar2cam,
                view.img_aug_matrix.copy(),
            )
            for camera, view in zip(frame.cameras, self._views, strict=False)
        ]

    def _views_of_a_readable_frame(self) -> list[CameraView]:
        for index, frame in enumerate(self.frames):
            key = SampleKey(0, index)
            try:
                fresh = _fresh(frame, index, key, self.seed)
                sample = self.pipeline(fresh, sample_rng(self.seed, key))
                _check_sizes(sample)
            except (OSError, ValueError):
                continue
            if sample is not None:
                return sample.cameras
        raise SampleError(
            f"{self.ann_file} must hold a readable frame, got none: no picture tells their size"
        )

    def bad_samples(self) -> list[str]:
        """Tokens of the frames that could not be read so far, in any worker."""
        return [self.frames[i].token for i in self._bad.nonzero().flatten().tolist()]

    def dropped_points(self) -> dict[str, int]:
        """How many unusable points were left out, for the frames that had any."""
        found = self._dropped.nonzero().flatten().tolist()
        return {self.frames[i].token: int(self._dropped[i]) for i in found}

    def labels_of(self, index: int) -> set[int]:
        """Labels that occur in a frame."""
        return set(self.frames[index].labels.tolist()) - {-1}


def _check_modality(modality: Mapping[str, bool] | None, cameras: Sequence[str] | None) -> bool:
    """Whether cameras are read."""
    wanted = {**_MODALITY, **(modality or {})}
    others = [name for name, use in wanted.items() if use and name not in _MODALITY]
    if others:
        raise ValueError(
            f"NuScenesDataset: modality must use lidar and cameras alone, got {', '.join(others)}"
        )
    if cameras is not None and not wanted["use_camera"]:
        raise ValueError(
            f"NuScenesDataset: cameras must be None where modality has no use_camera, got {cameras}"
        )
    if cameras is not None and (not cameras or len(set(cameras)) < len(cameras)):
        raise ValueError(
            f"NuScenesDataset: cameras must be None or different channels, got {cameras}"
        )
    return bool(wanted["use_camera"])


def _check_sizes(sample: Sample | None) -> None:
    """Stop where the pictures of a frame cannot be stacked.

    Raises:
        ValueError: names the first that differs.
    """
    views = sample.cameras if sample is not None else []
    for i, view in enumerate(views):
        if view.image.shape != views[0].image.shape:
            files = sample.frame.cameras if sample is not None and sample.frame else ()
            path = files[i].path if i < len(files) else "its file"
            raise ValueError(
                f"image of {view.channel}: {path} must end up with the shape of "
                f"{views[0].channel}, {views[0].image.shape}, got {view.image.shape}; try "
                "ImageAug3D"
            )


def _fresh(frame: FrameInfo, index: int, key: SampleKey, seed: int) -> Sample:
    return Sample(
        token=frame.token,
        index=index,
        lidar2ego=frame.lidar2ego.copy(),
        ego2global=frame.ego2global.copy(),
        key=key,
        seed=seed,
        frame=frame,
    )
