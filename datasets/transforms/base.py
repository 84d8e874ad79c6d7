"""What a transform is, and how several become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from anybev.datasets.sample import Sample


class Transform(Protocol):
    """Takes a sample, gives it back changed; None asks for another frame in its place.

    All randomness comes from ``rng``, so a sample is a function of (seed, epoch, index).
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        """Change ``sample`` (in place is fine) and return it."""
        ...


class Compose:
    """Transforms one after the other; stops at the first that asks for another frame."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        """Run all transforms."""
        current: Sample | None = sample
        for transform in self.transforms:
            if current is None:
                return None
            current = transform(current, rng)
        return current


def check_range(name: str, point_cloud_range: Sequence[float]) -> np.ndarray:
    """``point_cloud_range`` as (6,) float32.

    Raises:
        ValueError: not six ordered numbers.
    """
    limits = np.asarray(point_cloud_range, np.float32)
    if limits.shape != (6,) or not (limits[:3] < limits[3:]).all():
        raise ValueError(
            f"{name}: point_cloud_range must be (x, y, z low, x, y, z high), "
            f"got {list(point_cloud_range)}"
        )
    return limits
