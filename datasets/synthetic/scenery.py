"""What lines the road and belongs to no class: buildings, low walls, trees, poles."""

from __future__ import annotations

import numpy as np

from anybev.datasets.synthetic.road import FACADE_M, SIDEWALK_M, Road
from anybev.datasets.synthetic.world import BOX, FRUSTUM, Part


def draw_sides(
    rng: np.random.Generator, road: Road
) -> tuple[list[Part], np.ndarray, tuple[tuple[int, float, float], ...]]:
    """Scenery, its footprints (F, 6: x, y, yaw, half-length, half-width, clearance), the yards."""
    parts: list[Part] = []
    yards: list[tuple[int, float, float]] = []
    for side in (-1, 1):
        s = -75.0 + float(rng.uniform(0, 10))
        while s < 190:
            length = float(rng.uniform(12, 26))
            middle = s + length / 2
            if rng.random() < 0.5:
                yards.append((side, s, s + length))
                parts.append(_wall(rng, road, middle, side * 46.0, length, 2.0, (2.5, 6)))
                if rng.random() < 0.8:
                    part = float(rng.uniform(0.5, 0.9)) * length
                    parts.append(_wall(rng, road, middle, side * 15, part, 0.3, (0.6, 1.2)))
            else:
                depth = float(rng.uniform(4, 9))
                front = FACADE_M + float(rng.uniform(0, 2.5)) + depth / 2
                parts.append(_wall(rng, road, middle, side * front, length, depth, (3.5, 10)))
            s += length + float(rng.uniform(0.5, 4))
        for s in np.arange(-70, 180, 8.0):
            here, kind = float(s + rng.uniform(0, 5)), rng.random()
            if kind < 0.25:
                parts += _tree(rng, road, here, side * (SIDEWALK_M[1] - 1.4))
            elif kind < 0.3:
                parts.append(_pole(rng, road, here, side * 10.1, (3, 8)))
            elif kind < 0.75:
                posts = np.arange(int(rng.integers(5, 9))) * 0.9
                parts += [_pole(rng, road, here + p, side * 10.1, (1.3, 1.9)) for p in posts]
            else:
                length = float(rng.uniform(3, 7))
                parts.append(_wall(rng, road, here, side * 10.1, length, 0.3, (0.5, 1.1)))
    footprints = np.array(
        [(p.x_m, p.y_m, p.yaw_rad, *_half_extent(p), p.z0_m) for p in parts], np.float64
    )
    return parts, footprints, tuple(yards)


def _half_extent(part: Part) -> tuple[float, float]:
    if part.kind == BOX:
        return part.a, part.b
    return max(part.a, part.b), max(part.a, part.b)


def _wall(
    rng: np.random.Generator,
    road: Road,
    s_m: float,
    d_m: float,
    length_m: float,
    depth_m: float,
    heights_m: tuple[float, float],
) -> Part:
    stretch = 1 - road.curvature * d_m
    x, y, yaw = road.pose(s_m, d_m)
    gray = float(rng.uniform(0.35, 0.8))
    height = float(rng.uniform(*heights_m))
    half = length_m / 2 * max(0.3, stretch)
    color = (gray, gray * 0.95, gray * 0.85)
    return Part(BOX, x, y, yaw, 0.0, height, half, depth_m / 2, float(rng.uniform(8, 40)), color)


def _tree(rng: np.random.Generator, road: Road, s_m: float, d_m: float) -> list[Part]:
    x, y, yaw = road.pose(s_m, d_m)
    thick, wide = float(rng.uniform(0.12, 0.25)), float(rng.uniform(0.8, 1.5))
    low, high = float(rng.uniform(2.3, 2.9)), float(rng.uniform(4.5, 7))
    green = (0.2, float(rng.uniform(0.35, 0.55)), 0.15)
    trunk = Part(FRUSTUM, x, y, yaw, 0.0, low, thick, 0.8 * thick, 12.0, (0.35, 0.25, 0.18))
    return [trunk, Part(FRUSTUM, x, y, yaw, low, high, wide, 0.4 * wide, 25.0, green)]


def _pole(
    rng: np.random.Generator, road: Road, s_m: float, d_m: float, heights_m: tuple[float, float]
) -> Part:
    x, y, yaw = road.pose(s_m, d_m)
    thick = float(rng.uniform(0.06, 0.14))
    height = float(rng.uniform(*heights_m))
    return Part(FRUSTUM, x, y, yaw, 0.0, height, thick, thick, 35.0, (0.45, 0.45, 0.47))
