"""Draws a list of surfaces into a picture: compiled where there are kernels, else in numpy.

The camera stands at the origin of world axes (x, y on the ground plane, z up). Pixel (row, column)
looks along ``rays[0] + u * rays[1] + v * rays[2]`` with u = column + 0.5, v = row + 0.5: pixel
centres lie at half-integers, so a picture of another scale has intrinsics multiplied by the scale.
That direction has length 1 along the optical axis, so "depth" is the camera's z coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

# Kinds of paint.
PLAIN, FACADE, GROUND, ROUND = 0, 1, 2, 3
BOUNDS = 8
_NOISE = 65536


@dataclass(frozen=True)
class DrawList:
    """Surfaces of one picture; F polygons are drawn first, then Q upright frustums.

    Of two surfaces at one depth the later is seen.

    Attributes:
        planes: (F, 3) float64: inverse depth = p0 + p1 u + p2 v.
        bounds: (F, 8, 3) float64: side +1 (u at least) or -1 (u at most), offset, slope: what the
            column is bounded by is offset + slope v.
        rows: (F, 2) int32: first row, row after the last.
        cones: (Q, 6) float64: x, y, z0, z1 about the camera; radius at height z is c4 + c5 z.
        windows: (Q, 4) int32: first row, row after the last, first column, column after the last.
        paints: (F + Q, 14) float32: kind; red, green, blue (0..255, lit but for ROUND); amplitude
            and frequency of the texture; offsets along and across the surface; numerators
            (1, u, v) of the positions along and across it.
        owners: (F + Q,) int32: object, or lidar.SCENERY, lidar.GROUND.
    """

    planes: np.ndarray
    bounds: np.ndarray
    rows: np.ndarray
    cones: np.ndarray
    windows: np.ndarray
    paints: np.ndarray
    owners: np.ndarray


@dataclass(frozen=True)
class Raster:
    """A drawn picture.

    Attributes:
        image_rgb: (H, W, 3) uint8.
        inverse_depth: (H, W) float32, 1/m; 0 in the sky.
        surface: (H, W) int32: row of the draw list's ``paints``; -1 in the sky.
    """

    image_rgb: np.ndarray
    inverse_depth: np.ndarray
    surface: np.ndarray


@cache
def noise_texture() -> np.ndarray:
    """Tileable grain (256, 256) uint8 of walls and ground."""
    rng = np.random.default_rng(20)
    grain = rng.uniform(-1, 1, (256, 256))
    blocks = np.repeat(np.repeat(rng.uniform(-1, 1, (64, 64)), 4, 0), 4, 1)
    return np.asarray(np.clip(128 + 70 * grain + 50 * blocks, 0, 255).astype(np.uint8))


@cache
def sensor_noise(width: int) -> np.ndarray:
    """Unit noise (65536 + width,) float32: a row of pixels reads from a place of its own."""
    return np.random.default_rng(21).standard_normal(_NOISE + width, np.float32)


def noise_places(seed: Sequence[int], height: int) -> np.ndarray:
    """Where each row and colour (height, 3) int32 of a picture reads the noise."""
    rng = np.random.default_rng([*seed, 22])
    return rng.integers(0, _NOISE, (height, 3), np.int32)


def render(
    drawing: DrawList,
    rays: np.ndarray,
    light: np.ndarray,
    height: int,
    width: int,
    seed: Sequence[int],
) -> Raster:
    """Draw one picture.

    Args:
        drawing: what is seen.
        rays: (3, 3) float64: direction at (u, v) = (0, 0) and its change with u and v.
        light: (15,) float64, see ``shading.light_values``.
        height: rows of the picture.
        width: columns.
        seed: of the sensor's noise.
    """
    from anybev.device.ops import _native

    inputs = (light, noise_texture(), sensor_noise(width), noise_places(seed, height))
    if _native.load() is None:
        return _render_native(drawing, rays, inputs, height, width)
    from anybev.datasets.synthetic.render_numpy import render_numpy

    return render_numpy(drawing, rays, *inputs, height, width)


def _render_native(
    drawing: DrawList,
    rays: np.ndarray,
    inputs: tuple[np.ndarray, ...],
    height: int,
    width: int,
) -> Raster:
    import torch

    arrays = (
        drawing.planes,
        drawing.bounds,
        drawing.rows,
        drawing.cones,
        drawing.windows,
        drawing.paints,
        rays,
        *inputs,
    )
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
    image, inverse_depth, surface = torch.ops.anybev_host.render(*tensors, height, width)
    return Raster(image.numpy(), inverse_depth.numpy(), surface.numpy())
