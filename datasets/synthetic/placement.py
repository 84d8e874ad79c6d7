"""Where each class is found along a road, and what it does there.

A placement proposes a group of objects around a position ``s`` of the road; the layout keeps the
members that fit. Distances ``d`` are to the left of the road's middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from anybev.datasets.synthetic.road import KERB_M, LANES_M, SIDEWALK_M, YARD_M, Road
from anybev.datasets.synthetic.shapes import draw_color, object_parts
from anybev.datasets.synthetic.world import (
    CLASS_BY_NAME,
    CLASSES,
    MAX_SPEED_MPS,
    SIZE_SPREAD,
    Motion,
    WorldObject,
)


@dataclass(frozen=True)
class Proposer:
    """Draws groups of objects for one scene."""

    road: Road
    rng: np.random.Generator
    yards: tuple[tuple[int, float, float], ...]

    def propose(self, name: str, s_m: float) -> list[WorldObject]:
        """A group of one class around ``s_m``."""
        choices = _PLACES[name]
        weights = np.array([weight for weight, _ in choices])
        place = choices[self.rng.choice(len(choices), p=weights / weights.sum())][1]
        return place(self, name, s_m)

    def make(
        self, name: str, motion: Motion, *, parked: bool = False, rider: bool = False
    ) -> WorldObject:
        """An object of random size and colour."""
        size = draw_size(self.rng, name)
        color = draw_color(self.rng, name)
        shine = float(self.rng.uniform(10, 45))
        label = CLASSES.index(CLASS_BY_NAME[name])
        parts = object_parts(name, size, color, shine, rider)
        return WorldObject(label, size, motion, parts, color, parked, rider)

    def still(self, s_m: float, d_m: float, turn_rad: float) -> Motion:
        """Standing at (s, d)."""
        return Motion(*self.road.pose(s_m, d_m, turn_rad))

    def side(self) -> int:
        """Left (1) or right (-1) of the road."""
        return 1 if self.rng.random() < 0.5 else -1

    def along(self, d_m: float) -> float:
        """Direction of traffic at d, relative to the road's."""
        return math.pi if d_m > 0 else 0.0


def draw_size(rng: np.random.Generator, name: str) -> tuple[float, float, float]:
    """Width, length, height within 15 % of the class's mean.

    Motorcycles and bicycles draw from the sizes that both classes allow, so that size does not
    tell them apart.
    """
    if CLASS_BY_NAME[name].family == "cycle":
        means = np.array([CLASS_BY_NAME[n].mean_size_wlh_m for n in ("motorcycle", "bicycle")])
        low, high = (means * (1 - SIZE_SPREAD)).max(0), (means * (1 + SIZE_SPREAD)).min(0)
        width, length, height = rng.uniform(low, high)
    else:
        mean = np.array(CLASS_BY_NAME[name].mean_size_wlh_m)
        scale = rng.uniform(-0.1, 0.1) + rng.uniform(-0.05, 0.05, 3)
        width, length, height = mean * (1 + scale)
    return (float(width), float(length), float(height))


def _lane(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    d = float(p.rng.choice(LANES_M)) + float(p.rng.uniform(-0.2, 0.2))
    motion = p.road.follow(s_m, d, float(p.rng.uniform(2, MAX_SPEED_MPS)), _accel(p))
    return [p.make(name, motion)]


def _stopped(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    d = float(p.rng.choice(LANES_M)) + float(p.rng.uniform(-0.2, 0.2))
    pitch = CLASS_BY_NAME[name].mean_size_wlh_m[1] * 1.2 + float(p.rng.uniform(0.8, 3))
    count = int(p.rng.integers(1, 4)) if name == "car" else 1
    turn = p.along(d) + float(p.rng.normal(0, 0.03))
    return [p.make(name, p.still(s_m + i * pitch, d, turn)) for i in range(count)]


def _kerb(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    d = p.side() * KERB_M
    length = CLASS_BY_NAME[name].mean_size_wlh_m[1]
    count = int(p.rng.integers(2, 5)) if name == "car" else 1
    group = []
    for i in range(count):
        turn = p.along(d) + float(p.rng.normal(0, 0.04))
        here = s_m + i * (1.3 * length + float(p.rng.uniform(0, 2)))
        group.append(
            p.make(name, p.still(here, d + float(p.rng.normal(0, 0.1)), turn), parked=True)
        )
    return group


def _yard(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    near = [yard for yard in p.yards if yard[1] - 5 < s_m < yard[2] + 5]
    if not near:
        return _kerb(p, name, s_m)
    side, low, high = near[int(p.rng.integers(len(near)))]
    s = float(np.clip(s_m, low + 2, high - 2))
    d = side * float(p.rng.uniform(*YARD_M))
    turn = float(p.rng.choice([0, 0.5, 1, 1.5])) * math.pi + float(p.rng.normal(0, 0.15))
    width = CLASS_BY_NAME[name].mean_size_wlh_m[0]
    count = int(p.rng.integers(1, 3)) if name in ("car", "truck", "trailer") else 1
    return [
        p.make(name, p.still(s + i * (1.45 * width), d, turn), parked=True) for i in range(count)
    ]


def _towed(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    d = float(p.rng.choice(LANES_M))
    speed, accel = float(p.rng.uniform(2, 10)), _accel(p)
    truck = p.make("truck", p.road.follow(s_m, d, speed, accel))
    trailer = p.make("trailer", p.road.follow(s_m, d, speed, accel))
    gap = (truck.size_wlh_m[1] + trailer.size_wlh_m[1]) / 2 + 0.6
    behind = s_m + gap if d > 0 else s_m - gap
    return [truck, replace(trailer, motion=p.road.follow(behind, d, speed, accel))]


def _walk(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    side = p.side()
    group = []
    turn = float(p.rng.choice([0.0, math.pi])) + float(p.rng.normal(0, 0.1))
    speed = float(p.rng.uniform(0.6, 1.8))
    d = float(p.rng.uniform(*SIDEWALK_M))
    for _ in range(int(p.rng.integers(1, 4))):
        x, y, yaw = p.road.pose(
            s_m + float(p.rng.uniform(-1.5, 1.5)), side * (d + float(p.rng.uniform(-1, 1))), turn
        )
        bend = float(p.rng.normal(0, 0.02))
        group.append(p.make(name, Motion(x, y, yaw, bend, speed + float(p.rng.normal(0, 0.03)))))
    return group


def _stroll(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    d = p.side() * float(p.rng.uniform(SIDEWALK_M[0], YARD_M[1] * 0.7))
    x, y, yaw = p.road.pose(s_m, d, float(p.rng.uniform(-math.pi, math.pi)))
    bend = float(p.rng.choice([-1, 1])) * float(p.rng.uniform(0.1, 0.5))
    return [p.make(name, Motion(x, y, yaw, bend, float(p.rng.uniform(0.5, 1.5))))]


def _cross(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    side = p.side()
    x, y, yaw = p.road.pose(s_m, side * float(p.rng.uniform(4, 10)), -side * math.pi / 2)
    return [p.make(name, Motion(x, y, yaw, 0.0, float(p.rng.uniform(0.8, 1.6))))]


def _stand(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    d = p.side() * float(p.rng.uniform(*SIDEWALK_M))
    group = []
    for _ in range(int(p.rng.integers(1, 4))):
        turn = float(p.rng.uniform(-math.pi, math.pi))
        offset = p.rng.uniform(-1.3, 1.3, 2)
        group.append(p.make(name, p.still(s_m + float(offset[0]), d + float(offset[1]), turn)))
    return group


def _ride(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    d = p.side() * float(p.rng.choice([5.6, 6.7, 8.2]))
    speed = float(p.rng.uniform(2, 8)) if p.rng.random() < 0.85 else 0.0
    return [p.make(name, p.road.follow(s_m, d, speed, 0.0), rider=True)]


def _rack(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    side = p.side()
    turn = math.pi / 2 + float(p.rng.normal(0, 0.2))
    return [
        p.make(name, p.still(s_m + 1.1 * i, side * float(p.rng.uniform(10.8, 11.2)), turn))
        for i in range(int(p.rng.integers(1, 4)))
    ]


def _row(p: Proposer, name: str, s_m: float) -> list[WorldObject]:
    side = p.side()
    pitch = 2.95 if name == "barrier" else float(p.rng.uniform(2, 4))
    d = side * float(p.rng.choice([7.2, 7.4, 9.6]))
    # A barrier's length is its thin side: its x axis looks across the row.
    turn = math.pi / 2 if name == "barrier" else float(p.rng.uniform(0, math.pi))
    slope = float(p.rng.normal(0, 0.02))
    return [
        p.make(
            name,
            p.still(
                s_m + pitch * i, d + slope * pitch * i, turn + slope + float(p.rng.normal(0, 0.04))
            ),
        )
        for i in range(int(p.rng.integers(2, 6)))
    ]


def _accel(p: Proposer) -> float:
    return float(p.rng.uniform(-0.7, 0.7)) if p.rng.random() < 0.5 else 0.0


Place = Callable[[Proposer, str, float], list[WorldObject]]
_PLACES: dict[str, tuple[tuple[float, Place], ...]] = {
    "car": ((3, _lane), (1, _stopped), (3, _kerb), (2, _yard)),
    "truck": ((3, _lane), (1, _stopped), (2, _kerb), (3, _yard)),
    "bus": ((4, _lane), (2, _stopped), (2, _kerb), (2, _yard)),
    "trailer": ((3, _towed), (2, _kerb), (5, _yard)),
    "construction_vehicle": ((1, _lane), (1, _stopped), (3, _kerb), (5, _yard)),
    "pedestrian": ((4, _walk), (2, _stroll), (1, _cross), (3, _stand)),
    "motorcycle": ((3, _ride), (2, _rack)),
    "bicycle": ((3, _ride), (2, _rack)),
    "traffic_cone": ((1, _row),),
    "barrier": ((1, _row),),
}
