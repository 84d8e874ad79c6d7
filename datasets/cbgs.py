"""Class-balanced grouping and sampling: rare classes come as often as common ones."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.sample import Sample, SampleKey

_STREAM = 0x63626773


class CBGSDataset(Dataset[Sample]):
    """A data set with its frames repeated until every class has an equal share.

    Frames are listed once for each class they hold; each class's list is resampled, with
    replacement, to the mean share (Zhu et al., "Class-balanced Grouping and Sampling for Point
    Cloud 3D Object Detection", 2019, as mmdetection3d does it). The list is a function of the seed,
    so it agrees across ranks and between runs.

    Args:
        dataset: what to resample.
        seed: of the list; the data set's when None.

    Raises:
        ValueError: no frame holds an object of a configured class.
    """

    def __init__(self, dataset: NuScenesDataset, seed: int | None = None) -> None:
        self.dataset = dataset
        self.seed = dataset.seed if seed is None else seed
        self.frame_indices = self._resample()

    def _resample(self) -> np.ndarray:
        holding: list[list[int]] = [[] for _ in self.dataset.classes]
        for i in range(len(self.dataset)):
            for label in self.dataset.labels_of(i):
                holding[label].append(i)
        total = sum(len(frames) for frames in holding)
        if not total:
            raise ValueError(
                f"CBGSDataset: {self.dataset.ann_file} must hold objects of the classes, got none"
            )
        rng = np.random.Generator(np.random.PCG64([self.seed, _STREAM]))
        share = 1.0 / len(holding)
        drawn = [
            rng.choice(frames, int(len(frames) * (share / (len(frames) / total))))
            for frames in holding
            if frames
        ]
        return np.concatenate(drawn).astype(np.int64)

    def __len__(self) -> int:
        return len(self.frame_indices)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        """The sample of a key; repeats of one frame are augmented differently."""
        key = key if isinstance(key, SampleKey) else SampleKey(0, int(key))
        if not 0 <= key.index < len(self):
            raise IndexError(f"CBGSDataset: index must be in 0..{len(self) - 1}, got {key.index}")
        return self.dataset.load(int(self.frame_indices[key.index]), key)

    def bad_samples(self) -> list[str]:
        """Tokens of the frames that could not be read so far, in any worker."""
        return self.dataset.bad_samples()

    def dropped_points(self) -> dict[str, int]:
        """How many unusable points were left out, for the frames that had any."""
        return self.dataset.dropped_points()
