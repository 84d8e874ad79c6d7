"""Light of the synthetic pictures: how bright a surface is, and what hangs in the air.

A surface shows ``colour * tint * sqrt(ambient + sun * cosine)``: Lambert's law, with the square
root as a camera's response curve.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from anybev.datasets.synthetic.world import Lighting

Rgb = tuple[float, float, float]


class _Air(NamedTuple):
    """Sky colours 0..255, the depth at which the air hides half, and the sensor's noise."""

    horizon: Rgb
    zenith: Rgb
    fog_m: float
    noise: float


_AIR = {
    "day": _Air((196.0, 211.0, 226.0), (92.0, 140.0, 206.0), 900.0, 1.5),
    "overcast": _Air((201.0, 204.0, 207.0), (160.0, 166.0, 174.0), 450.0, 2.0),
    "dusk": _Air((214.0, 160.0, 118.0), (82.0, 84.0, 124.0), 600.0, 2.5),
    "night": _Air((34.0, 37.0, 48.0), (10.0, 12.0, 22.0), 700.0, 4.0),
}


def sun_direction(lighting: Lighting) -> np.ndarray:
    """Unit vector (3,) towards the sun, world frame."""
    level = math.cos(lighting.sun_elevation_rad)
    return np.array(
        [
            level * math.cos(lighting.sun_azimuth_rad),
            level * math.sin(lighting.sun_azimuth_rad),
            math.sin(lighting.sun_elevation_rad),
        ]
    )


def brightness(lighting: Lighting, normals: np.ndarray) -> np.ndarray:
    """Factor (...,) on the colour of surfaces with unit normals (..., 3) in the world frame."""
    cosine = (normals * sun_direction(lighting)).sum(-1)
    return np.asarray(np.sqrt(lighting.ambient + lighting.sun * np.maximum(cosine, 0.0)))


def light_values(lighting: Lighting, curvature: float, focal_px: float) -> np.ndarray:
    """What the renderer needs beside the surfaces, as ``Light`` of render.h has it.

    Args:
        lighting: of the scene.
        curvature: of the road, 1/m.
        focal_px: of the camera.

    Returns:
        (15,) float64: ambient, sun, direction to the sun, sky at the horizon and overhead (0..255),
        depth at which the air hides half, strength of the noise, curvature, focal length.
    """
    air = _AIR[lighting.name]
    return np.array(
        [
            lighting.ambient,
            lighting.sun,
            *sun_direction(lighting),
            *air.horizon,
            *air.zenith,
            air.fog_m,
            air.noise,
            curvature,
            focal_px,
        ]
    )
