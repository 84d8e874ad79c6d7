"""Draws a scene: road, buildings, light, the ego's drive, and 20 to 40 objects around it."""

from __future__ import annotations

import math

import numpy as np

from anybev.datasets.synthetic.placement import Proposer
from anybev.datasets.synthetic.rig import EGO_WIDTH_M, EGO_X_M
from anybev.datasets.synthetic.road import (
    EGO_LANE_M,
    FACADE_M,
    SIDEWALK_M,
    Road,
    footprints_touch,
)
from anybev.datasets.synthetic.world import (
    BOX,
    FRUSTUM,
    MAX_OBJECTS,
    MAX_SPEED_MPS,
    MIN_OBJECTS,
    OBJECT_RADIUS_M,
    Lighting,
    Motion,
    Part,
    World,
    WorldObject,
    key_frame_times,
    poses_at,
    stack_motions,
)

# Share of proposals per class; groups (rows, walkers) make the small classes the most numerous.
_WEIGHTS = {
    "car": 0.19,
    "truck": 0.12,
    "bus": 0.10,
    "trailer": 0.09,
    "construction_vehicle": 0.11,
    "pedestrian": 0.12,
    "motorcycle": 0.07,
    "bicycle": 0.07,
    "traffic_cone": 0.07,
    "barrier": 0.06,
}
_GAP_M = 0.15
_EGO_GAP_M = 0.8
_TIMES = np.arange(-0.25, 9.76, 0.25)
_TRIES = 3000
_WORLDS = 20


def build_world(seed: int, scene_number: int) -> World:
    """The scene of that number for that seed; nothing else enters.

    Raises:
        RuntimeError: no layout with 20 to 40 objects in every key frame was found.
    """
    for attempt in range(_WORLDS):
        rng = np.random.default_rng([seed, scene_number, attempt])
        world = _draw(rng)
        if world is not None:
            return world
    raise RuntimeError(
        f"synthetic scene: seed {seed}, scene {scene_number} must have {MIN_OBJECTS} to "
        f"{MAX_OBJECTS} objects in every key frame, got no such layout in {_WORLDS} draws; "
        "try another seed"
    )


def _draw(rng: np.random.Generator) -> World | None:
    bend = 0.0 if rng.random() < 0.4 else float(rng.choice([-1, 1]) * rng.uniform(1 / 160, 1 / 70))
    start = rng.uniform(250, 350, 2)
    road = Road(float(start[0]), float(start[1]), float(rng.uniform(-math.pi, math.pi)), bend)
    ego = _draw_ego(rng, road)
    scenery, footprints, yards = _draw_sides(rng, road)
    crowd = _Crowd(ego, footprints)
    _fill(rng, crowd, Proposer(road, rng, yards), road)
    counts = crowd.counts
    if counts.min() < MIN_OBJECTS or counts.max() > MAX_OBJECTS:
        return None
    ripples = np.stack(
        [
            rng.uniform(0.004, 0.012, 4),
            rng.uniform(-1.2, 1.2, 4),
            rng.uniform(-1.2, 1.2, 4),
            rng.uniform(0, 2 * math.pi, 4),
        ],
        axis=1,
    )
    return World(tuple(crowd.objects), tuple(scenery), ego, _draw_lighting(rng), ripples)


def _draw_ego(rng: np.random.Generator, road: Road) -> Motion:
    if rng.random() < 0.15:
        return road.follow(0.0, EGO_LANE_M, 0.0, 0.0)
    speed = float(rng.uniform(0, MAX_SPEED_MPS))
    accel = float(rng.uniform(-0.8, 0.8)) if rng.random() < 0.6 else 0.0
    return road.follow(0.0, EGO_LANE_M, speed, accel)


def _draw_lighting(rng: np.random.Generator) -> Lighting:
    name, sun, ambient, tint, elevation = (
        ("day", 1.0, 0.45, (1.0, 0.98, 0.94), 0.9),
        ("overcast", 0.25, 0.7, (0.93, 0.96, 1.0), 0.9),
        ("dusk", 0.55, 0.3, (1.0, 0.82, 0.66), 0.2),
        ("night", 0.05, 0.18, (0.75, 0.82, 1.0), 0.6),
    )[int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))]
    scale = float(rng.uniform(0.85, 1.15))
    return Lighting(
        name,
        float(rng.uniform(-math.pi, math.pi)),
        elevation * scale,
        min(1.0, sun * scale),
        min(1.0, ambient * scale),
        tint,
    )


def _draw_sides(
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
                if rng.random() < 0.4:
                    parts.append(_wall(rng, road, middle, side * 15, length * 0.6, 0.3, (0.7, 1.3)))
            else:
                depth = float(rng.uniform(4, 9))
                front = FACADE_M + float(rng.uniform(0, 2.5)) + depth / 2
                parts.append(_wall(rng, road, middle, side * front, length, depth, (3.5, 10)))
            s += length + float(rng.uniform(0.5, 4))
        for s in np.arange(-70, 180, 14.0):
            here, d = float(s + rng.uniform(0, 9)), side * (SIDEWALK_M[1] - 1.4)
            if rng.random() < 0.55:
                parts += _tree(rng, road, here, d)
            else:
                parts.append(_pole(rng, road, here, side * 10.1))
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


def _pole(rng: np.random.Generator, road: Road, s_m: float, d_m: float) -> Part:
    x, y, yaw = road.pose(s_m, d_m)
    thick = float(rng.uniform(0.06, 0.14))
    height = float(rng.uniform(3, 8))
    return Part(FRUSTUM, x, y, yaw, 0.0, height, thick, thick, 35.0, (0.45, 0.45, 0.47))


class _Crowd:
    """The objects accepted so far, and whether another one fits."""

    def __init__(self, ego: Motion, scenery: np.ndarray) -> None:
        self.objects: list[WorldObject] = []
        self._scenery = scenery
        self.ego_at_keys = poses_at(stack_motions([ego]), key_frame_times())[0]
        self.counts = np.zeros(len(self.ego_at_keys), np.int64)
        drive = poses_at(stack_motions([ego]), _TIMES)[0]
        middle = (EGO_X_M[0] + EGO_X_M[1]) / 2
        half = ((EGO_X_M[1] - EGO_X_M[0]) / 2 + _EGO_GAP_M, EGO_WIDTH_M / 2 + _EGO_GAP_M)
        drive[:, 0] += middle * np.cos(drive[:, 2])
        drive[:, 1] += middle * np.sin(drive[:, 2])
        self._tracks = [_track(drive, half)]

    def add(self, item: WorldObject, most: int) -> bool:
        """Accept an object that touches nothing at any time and keeps every count in bounds."""
        motion = stack_motions([item.motion])
        at_keys = poses_at(motion, key_frame_times())[0]
        apart = np.hypot(*(at_keys - self.ego_at_keys)[:, :2].T)
        counts = self.counts + (apart <= OBJECT_RADIUS_M)
        if counts.max() > most:
            return False
        width, length, height = item.size_wlh_m
        track = _track(poses_at(motion, _TIMES)[0], (length / 2 + _GAP_M, width / 2 + _GAP_M))
        low = self._scenery[self._scenery[:, 5] < height]
        if footprints_touch(track, low[:, None, :5]).any():
            return False
        if footprints_touch(track, np.stack(self._tracks)).any():
            return False
        self.objects.append(item)
        self._tracks.append(track)
        self.counts = counts
        return True


def _track(poses: np.ndarray, half: tuple[float, float]) -> np.ndarray:
    return np.concatenate([poses, np.broadcast_to(half, (len(poses), 2))], axis=1)


def _fill(rng: np.random.Generator, crowd: _Crowd, proposer: Proposer, road: Road) -> None:
    """Add groups where the fewest objects are until every key frame has its share."""
    wanted = int(rng.integers(MIN_OBJECTS + 3, MAX_OBJECTS - 6))
    names, weights = list(_WEIGHTS), np.array(list(_WEIGHTS.values()))
    origin = np.array([road.x_m, road.y_m])
    for _ in range(_TRIES):
        frame = int(crowd.counts.argmin())
        if crowd.counts[frame] >= wanted:
            return
        travelled = float(np.hypot(*(crowd.ego_at_keys[frame, :2] - origin)))
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        for _ in range(6):
            s = travelled + float(rng.uniform(-52, 52))
            kept = [crowd.add(item, MAX_OBJECTS - 1) for item in proposer.propose(name, s)]
            if any(kept):
                break
