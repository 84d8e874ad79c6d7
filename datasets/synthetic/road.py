"""The road of a scene, and the test whether things on it would touch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from anybev.datasets.synthetic.world import Motion

LANES_M = (-5.25, -1.75, 1.75, 5.25)
EGO_LANE_M = -1.75
KERB_M = 8.4
SIDEWALK_M = (10.4, 13.6)
FACADE_M = 15.5
YARD_M = (17.0, 42.0)


class Road(NamedTuple):
    """A road of constant curvature.

    ``s`` runs along its middle from the ego's start, ``d`` to the left. Traffic keeps right: with
    ``s`` on the right side (d < 0), against it on the left.
    """

    x_m: float
    y_m: float
    yaw_rad: float
    curvature: float

    def pose(self, s_m: float, d_m: float, turn_rad: float = 0.0) -> tuple[float, float, float]:
        """World pose at (s, d), headed ``turn_rad`` left of the direction of ``s``."""
        bend = self.curvature * s_m
        chord = s_m * float(np.sinc(bend / (2 * math.pi)))
        yaw = self.yaw_rad + bend
        x = self.x_m + chord * math.cos(self.yaw_rad + bend / 2) - d_m * math.sin(yaw)
        y = self.y_m + chord * math.sin(self.yaw_rad + bend / 2) + d_m * math.cos(yaw)
        return x, y, yaw + turn_rad

    def travelled(self, x_m: float, y_m: float) -> float:
        """Position ``s`` of a world point near the road."""
        dx, dy = x_m - self.x_m, y_m - self.y_m
        ahead = dx * math.cos(self.yaw_rad) + dy * math.sin(self.yaw_rad)
        left = dy * math.cos(self.yaw_rad) - dx * math.sin(self.yaw_rad)
        if self.curvature == 0:
            return ahead
        sign = math.copysign(1.0, self.curvature)
        return math.atan2(sign * ahead, sign * (1 / self.curvature - left)) / self.curvature

    def follow(self, s_m: float, d_m: float, speed_mps: float, accel_mps2: float) -> Motion:
        """Motion along the lane through (s, d), in the direction of that side's traffic."""
        back = d_m > 0
        curvature = self.curvature / (1 - self.curvature * d_m)
        x, y, yaw = self.pose(s_m, d_m, math.pi if back else 0.0)
        return Motion(x, y, yaw, -curvature if back else curvature, speed_mps, accel_mps2)


def road_under(ego: Motion) -> Road:
    """The road that an ego motion made by ``Road.follow`` in the ego's lane runs on."""
    curvature = ego.curvature / (1 + ego.curvature * EGO_LANE_M)
    x = ego.x_m + EGO_LANE_M * math.sin(ego.yaw_rad)
    y = ego.y_m - EGO_LANE_M * math.cos(ego.yaw_rad)
    return Road(x, y, ego.yaw_rad, curvature)


def footprints_touch(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether rectangles on the ground overlap (separating axes).

    Args:
        one: (T, 5): x, y, yaw, half-length, half-width at T times.
        others: (N, T, 5) or (N, 1, 5) for things at rest.

    Returns:
        (N,) bool: touched at any of the times.
    """
    touched = np.zeros(len(others), bool)
    reach = np.hypot(one[:, 3], one[:, 4]) + np.hypot(others[..., 3], others[..., 4])
    dx, dy = others[..., 0] - one[:, 0], others[..., 1] - one[:, 1]
    close = (dx * dx + dy * dy <= reach * reach).any(axis=-1)
    others, dx, dy = others[close], dx[close], dy[close]
    turn = others[..., 2] - one[:, 2]
    cos_turn, sin_turn = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    apart = np.zeros(np.broadcast_shapes(dx.shape, turn.shape), bool)
    for yaw, mine, theirs in ((one[:, 2], one, others), (others[..., 2], others, one)):
        cos, sin = np.cos(yaw), np.sin(yaw)
        length, width = theirs[..., 3], theirs[..., 4]
        along = mine[..., 3] + length * cos_turn + width * sin_turn
        across = mine[..., 4] + length * sin_turn + width * cos_turn
        apart |= np.abs(dx * cos + dy * sin) > along
        apart |= np.abs(dy * cos - dx * sin) > across
    touched[close] = (~apart).any(axis=-1)
    return touched
