"""Resize, crop, mirror, turn: pixels as Pillow computes them, and the matrix that says the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

#: ``pillow`` computes with Pillow; ``fast`` with compiled kernels, only what the crop keeps.
Resampler = Literal["pillow", "fast"]


@dataclass(frozen=True)
class ImageChange:
    """What happens to a picture, in this order.

    Attributes:
        factor: of the resize; the matrix uses it, the pixels ``resized``.
        resized: (width, height) after the resize (bicubic, antialiased).
        crop: (left, top, right, bottom) of the part that stays; black where nothing is.
        flip: mirror left-right.
        rotation_deg: turn about the centre, counter-clockwise as seen (nearest pixel; black where
            nothing is).
    """

    factor: float
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]
    flip: bool = False
    rotation_deg: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the result."""
        left, top, right, bottom = self.crop
        return bottom - top, right - left

    def matrix(self) -> np.ndarray:
        """(4, 4) float64, (u, v, depth) in pixels before to (u', v', depth) after."""
        height, width = self.shape
        linear = self.factor * np.eye(2)
        offset = -np.array(self.crop[:2], np.float64)
        if self.flip:
            mirror = np.diag([-1.0, 1.0])
            linear, offset = mirror @ linear, mirror @ offset + [width, 0]
        angle_rad = math.radians(self.rotation_deg)
        c, s = math.cos(angle_rad), math.sin(angle_rad)
        turn, centre = np.array([[c, s], [-s, c]]), np.array([width, height]) / 2
        linear, offset = turn @ linear, turn @ (offset - centre) + centre
        matrix = np.eye(4)
        matrix[:2, :2], matrix[:2, 3] = linear, offset
        return matrix


def check_resampler(name: str, resampler: str) -> Resampler:
    """``resampler`` if it is one.

    Raises:
        ValueError: it is not.
    """
    if resampler not in ("pillow", "fast"):
        raise ValueError(f"{name}: resampler must be pillow or fast, got {resampler!r}")
    return resampler  # type: ignore[return-value]


def resample(image: np.ndarray, change: ImageChange, resampler: Resampler = "pillow") -> np.ndarray:
    """The changed picture; both resamplers give the same pixels.

    Args:
        image: (H, W, 3) uint8.
        change: what to do.
        resampler: see ``Resampler``; without compiled kernels ``fast`` is ``pillow``.

    Returns:
        (*change.shape, 3) uint8, writable.
    """
    return _pillow(image, change)


def _pillow(image: np.ndarray, change: ImageChange) -> np.ndarray:
    picture = Image.fromarray(image)
    picture = picture.resize(change.resized, Image.Resampling.BICUBIC).crop(change.crop)
    if change.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change.rotation_deg:
        picture = picture.rotate(change.rotation_deg, Image.Resampling.NEAREST)
    return np.array(picture)
