"""Faults of a camera rig, to see that a model which uses its cameras suffers from them.

Imported by a config's ``custom_imports``; goes into a test pipeline behind the loading of images.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from anybev.datasets.sample import CameraView, Sample
from anybev.engine.registry import TRANSFORMS

Kind = Literal["rotate", "swap", "mirror", "black"]
KINDS: tuple[Kind, ...] = ("rotate", "swap", "mirror", "black")


@TRANSFORMS.register_module()
class CameraFault:
    """Does one wrong thing to every camera of a sample.

    Args:
        kind: ``rotate`` turns every camera's extrinsic about its vertical axis; ``swap`` gives each
            camera the picture of the one half a rig further; ``mirror`` flips the pictures without
            telling the matrices; ``black`` shows nothing.
        degrees: of ``rotate``.
    """

    def __init__(self, kind: Kind, degrees: float = 2.0) -> None:
        if kind not in KINDS:
            raise ValueError(f"CameraFault: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind, self.degrees = kind, degrees

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Damage ``sample.cameras``."""
        views = sample.cameras
        if not views:
            raise ValueError("CameraFault: sample must have images, got none; load them first")
        if self.kind == "rotate":
            for view in views:
                view.lidar2cam = _about_vertical(self.degrees) @ view.lidar2cam
        elif self.kind == "swap":
            _swap(views)
        else:
            for view in views:
                picture = view.image[:, ::-1] if self.kind == "mirror" else 0 * view.image
                view.image = np.ascontiguousarray(picture)
        return sample


def _about_vertical(degrees: float) -> np.ndarray:
    """Turn of the camera frame (x right, y down, z forward) about its y axis."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    matrix[[0, 0, 2, 2], [0, 2, 0, 2]] = cos, sin, -sin, cos
    return matrix


def _swap(views: list[CameraView]) -> None:
    pictures = [view.image for view in views]
    for index, view in enumerate(views):
        view.image = pictures[(index + len(views) // 2) % len(views)]
