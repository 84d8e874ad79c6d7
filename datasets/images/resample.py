"""Resize, crop, mirror, turn: pixels as Pillow computes them, and the matrix that says the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from PIL import Image

from anybev import envs
from anybev.device.ops import _native

#: ``pillow`` computes with Pillow; ``fast`` with compiled kernels, only what the crop keeps.
Resampler = Literal["pillow", "fast"]

# Beyond it Pillow turns in floating point, the kernel would not.
_MAX_SIDE = 1 << 14
# Pillow 13 resizes along y first where pictures are twice as high as wide, with room to that limit;
# the kernel goes along x first.
_MAX_HEIGHT_TO_WIDTH = 1.5


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
        resampler: see ``Resampler``; ``fast`` is ``pillow`` without compiled kernels, and for
            pictures that are no camera's: high and narrow ones, sides of 16,384 pixels and more,
            and those that keep more of their width than of their height, beyond the rounding of
            one factor to whole pixels.

    Returns:
        (*change.shape, 3) uint8, writable.

    Raises:
        RuntimeError: ``fast`` has no compiled kernel and ``ANYBEV_REQUIRE_NATIVE`` is set.
    """
    if resampler == "fast" and _is_usual(image, change):
        why = _why_not_compiled()
        if why is None:
            return _fast(image, change)
        if envs.require_native():
            raise RuntimeError(
                f"resample: ANYBEV_REQUIRE_NATIVE=1 but resampler fast would be Pillow's: {why}"
            )
    return _pillow(image, change)


def _pillow(image: np.ndarray, change: ImageChange) -> np.ndarray:
    picture = Image.fromarray(image)
    picture = picture.resize(change.resized, Image.Resampling.BICUBIC).crop(change.crop)
    if change.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change.rotation_deg:
        picture = picture.rotate(change.rotation_deg, Image.Resampling.NEAREST)
    return np.array(picture)


def _is_usual(image: np.ndarray, change: ImageChange) -> bool:
    height, width, _ = image.shape
    new_width, new_height = change.resized
    return bool(
        max(height, width, new_height, new_width, *change.shape) < _MAX_SIDE
        and height <= _MAX_HEIGHT_TO_WIDTH * width
        # There, too, Pillow may go along y first; sides that one factor gave, rounded down, differ
        # by less.
        and new_width * height - new_height * width < width
    )


@cache
def _why_not_compiled() -> str | None:
    why = _native.load()
    if why is None and not hasattr(torch.ops.anybev_host, "resize_crop"):
        return "this build has no kernel for it; run install.sh again"
    return why


def _fast(image: np.ndarray, change: ImageChange) -> np.ndarray:
    (width, height), (left, top, *_) = change.resized, change.crop
    cropped = torch.empty((*change.shape, 3), dtype=torch.uint8)
    torch.ops.anybev_host.resize_crop(
        torch.from_numpy(np.require(image, requirements=["C", "W"])),
        cropped,
        height,
        width,
        top,
        left,
        change.flip,
    )
    angle_deg = change.rotation_deg % 360.0
    if angle_deg in (90.0, 180.0, 270.0):  # Pillow transposes, or has cases of its own
        return np.array(Image.fromarray(cropped.numpy()).rotate(angle_deg))
    if angle_deg:
        back = _turn_back(angle_deg, change.shape)
        untouched, cropped = cropped, torch.empty_like(cropped)
        torch.ops.anybev_host.turn(untouched, cropped, back)
    result: np.ndarray = cropped.numpy()
    return result


def _turn_back(angle_deg: float, shape: tuple[int, int]) -> list[float]:
    """Where a pixel (x, y) of the turned picture comes from: a x + b y + c, d x + e y + f."""
    height, width = shape
    # In Pillow's order of operations: the kernel rounds to 1/65536 of a pixel.
    angle_rad = -math.radians(angle_deg)
    cosine, sine = round(math.cos(angle_rad), 15), round(math.sin(angle_rad), 15)
    minus_sine = round(-math.sin(angle_rad), 15)
    x, y = width / 2, height / 2
    return [
        cosine,
        sine,
        cosine * -x + sine * -y + 0.0 + x,
        minus_sine,
        cosine,
        minus_sine * -x + cosine * -y + 0.0 + y,
    ]
