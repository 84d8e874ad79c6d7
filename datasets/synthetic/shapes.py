"""The solids that each class is made of: what lets a lidar tell the classes apart.

Every solid keeps ``INSET_M`` from the sides and the top of its annotated box, so that two standard
deviations of range noise stay inside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anybev.datasets.synthetic.world import BOX, FRUSTUM, Part

INSET_M = 0.04
Color = tuple[float, float, float]

# Colours of the two cycles: one shape, one size, one reflectivity; only these differ.
MOTORCYCLE_COLOR: Color = (0.85, 0.15, 0.08)
BICYCLE_COLOR: Color = (0.08, 0.65, 0.75)
_SKIN: Color = (0.8, 0.6, 0.5)
_DARK: Color = (0.12, 0.12, 0.13)
_GLASS: Color = (0.25, 0.32, 0.38)


class _Builder:
    """Collects parts in fractions of the inset half-length, half-width and full height."""

    def __init__(self, size_wlh_m: tuple[float, float, float]) -> None:
        width, length, height = size_wlh_m
        self.half_l = length / 2 - INSET_M
        self.half_w = width / 2 - INSET_M
        self.height = height - INSET_M
        self.parts: list[Part] = []

    def box(
        self,
        x: tuple[float, float],
        width: float,
        z: tuple[float, float],
        reflectivity: float,
        color: Color,
    ) -> None:
        """A box from x[0] to x[1] (fractions of the half-length), of a fraction of the width."""
        self.parts.append(
            Part(
                BOX,
                (x[0] + x[1]) / 2 * self.half_l,
                0.0,
                0.0,
                z[0] * self.height,
                z[1] * self.height,
                (x[1] - x[0]) / 2 * self.half_l,
                width * self.half_w,
                reflectivity,
                color,
            )
        )

    def round(
        self,
        x: float,
        radii_m: tuple[float, float],
        z: tuple[float, float],
        reflectivity: float,
        color: Color,
    ) -> None:
        """An upright frustum centred at a fraction of the half-length."""
        self.parts.append(
            Part(
                FRUSTUM,
                x * self.half_l,
                0.0,
                0.0,
                z[0] * self.height,
                z[1] * self.height,
                *radii_m,
                reflectivity,
                color,
            )
        )


def _car(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((-1, 1), 1.0, (0.12, 0.56), shine, color)
    b.box((-0.8, 0.35), 0.86, (0.56, 1.0), 0.6 * shine, _GLASS)


def _truck(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((0.5, 1), 0.92, (0.14, 0.78), shine, color)
    b.box((-1, 0.42), 1.0, (0.32, 1.0), 1.2 * shine, (0.85, 0.85, 0.82))
    b.box((-0.95, 0.5), 0.6, (0.16, 0.32), 6.0, _DARK)


def _bus(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((-1, 1), 1.0, (0.08, 1.0), shine, color)


def _trailer(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((-1, 1), 1.0, (0.3, 1.0), 1.3 * shine, color)
    b.box((-0.95, -0.5), 0.85, (0.03, 0.3), 6.0, _DARK)
    b.box((0.5, 0.56), 0.5, (0.02, 0.3), 8.0, _DARK)


def _construction(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((-1, 0.25), 1.0, (0.02, 0.3), 7.0, _DARK)
    b.box((-0.95, -0.1), 0.72, (0.3, 0.88), shine, color)
    b.box((-0.1, 0.8), 0.14, (0.84, 1.0), shine, color)
    b.box((0.68, 0.82), 0.14, (0.3, 0.84), shine, color)
    b.box((0.55, 1.0), 0.55, (0.02, 0.3), 8.0, _DARK)


def _person(b: _Builder, color: Color, x: float, z: tuple[float, float], girth_m: float) -> None:
    low, high = z
    span = high - low
    b.round(x, (0.72 * girth_m, 0.85 * girth_m), (low, low + 0.48 * span), 18.0, _DARK)
    b.round(x, (0.95 * girth_m, girth_m), (low + 0.48 * span, low + 0.85 * span), 26.0, color)
    b.round(x, (0.1, 0.1), (low + 0.85 * span, high), 30.0, _SKIN)


def _pedestrian(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    _person(b, color, 0.0, (0.01, 1.0), 0.8 * min(b.half_l, b.half_w))


def _cycle(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((-1, -0.35), 0.16, (0.02, 0.46), 10.0, _DARK)
    b.box((0.35, 1), 0.16, (0.02, 0.46), 10.0, _DARK)
    b.box((-0.75, 0.55), 0.3, (0.3, 0.62), 30.0, color)
    b.box((0.42, 0.52), 1.0, (0.7, 0.78), 12.0, _DARK)
    b.box((0.45, 0.5), 0.12, (0.46, 1.0), 12.0, _DARK)
    if rider:
        _person(b, (0.3, 0.3, 0.35), -0.15, (0.3, 1.0), 0.75 * b.half_w)


def _cone(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((-1, 1), 1.0, (0.02, 0.07), 15.0, _DARK)
    b.round(0.0, (0.82 * b.half_w, 0.2 * b.half_w), (0.07, 1.0), 60.0, color)


def _barrier(b: _Builder, color: Color, shine: float, rider: bool) -> None:
    b.box((-1, 1), 1.0, (0.02, 0.38), 45.0, color)
    b.box((-0.5, 0.5), 0.98, (0.38, 1.0), 45.0, color)


_SHAPES: dict[str, Callable[[_Builder, Color, float, bool], None]] = {
    "car": _car,
    "truck": _truck,
    "bus": _bus,
    "trailer": _trailer,
    "construction_vehicle": _construction,
    "pedestrian": _pedestrian,
    "motorcycle": _cycle,
    "bicycle": _cycle,
    "traffic_cone": _cone,
    "barrier": _barrier,
}


def object_parts(
    name: str, size_wlh_m: tuple[float, float, float], color: Color, shine: float, rider: bool
) -> tuple[Part, ...]:
    """Solids of one object in its own frame.

    Args:
        name: class.
        size_wlh_m: width, length, height of its box.
        color: main colour, 0..1.
        shine: mean lidar intensity of its paint (vehicles only).
        rider: a cycle carries one.
    """
    builder = _Builder(size_wlh_m)
    _SHAPES[name](builder, color, shine, rider)
    return tuple(builder.parts)


def draw_color(rng: np.random.Generator, name: str) -> Color:
    """A plausible colour of one object of a class."""
    fixed = {
        "motorcycle": MOTORCYCLE_COLOR,
        "bicycle": BICYCLE_COLOR,
        "traffic_cone": (0.95, 0.4, 0.1),
        "construction_vehicle": (0.9, 0.7, 0.1),
        "barrier": (0.9, 0.45, 0.2),
    }
    base = np.array(fixed.get(name, rng.choice(_PAINTS)))
    spread = 0.04 if name in fixed else 0.1
    r, g, b = np.clip(base + rng.uniform(-spread, spread, 3), 0, 1)
    return (float(r), float(g), float(b))


_PAINTS = np.array(
    [
        (0.9, 0.9, 0.9),
        (0.08, 0.08, 0.09),
        (0.5, 0.5, 0.52),
        (0.55, 0.1, 0.1),
        (0.12, 0.2, 0.5),
        (0.2, 0.35, 0.2),
        (0.75, 0.7, 0.55),
    ]
)
