"""Draws a scene: road, buildings, light, the ego's drive, and 20 to 40 objects around it."""

from __future__ import annotations

import math

import numpy as np

from anybev.datasets.synthetic.lidar import Scanner
from anybev.datasets.synthetic.placement import Proposer
from anybev.datasets.synthetic.rig import EGO_WIDTH_M, EGO_X_M
from anybev.datasets.synthetic.road import EGO_LANE_M, Road, footprints_touch
from anybev.datasets.synthetic.scenery import draw_sides
from anybev.datasets.synthetic.world import (
    MAX_OBJECTS,
    MAX_SPEED_MPS,
    MIN_OBJECTS,
    OBJECT_RADIUS_M,
    Lighting,
    Motion,
    World,
    WorldObject,
    key_frame_times,
    near_ego,
    poses_at,
    stack_motions,
)

# Share of each class among the objects of a key frame, and how far from the ego it is placed (the
# judge scores small things at short range).
_SHARES = {
    "car": (0.17, 50.0),
    "truck": (0.10, 50.0),
    "bus": (0.085, 50.0),
    "trailer": (0.075, 50.0),
    "construction_vehicle": (0.085, 50.0),
    "pedestrian": (0.145, 40.0),
    "motorcycle": (0.065, 40.0),
    "bicycle": (0.065, 40.0),
    "traffic_cone": (0.105, 32.0),
    "barrier": (0.105, 32.0),
}
_GAP_M = 0.15
_EGO_GAP_M = 0.8
_TIMES = np.arange(-0.25, 9.76, 0.25)
_TRIES = 1500
_ROUNDS = 3
_WORLDS = 40
# An object is partly occluded when some, but less than this share, of its rays reach it.
_CLEAR_SHARE = 0.9
MIN_OCCLUDED = 0.3


def build_world(seed: int, scene_number: int) -> World:
    """The scene of that number for that seed; nothing else enters.

    Raises:
        RuntimeError: no layout with 20 to 40 objects in every key frame, 30 % of them partly
            occluded, was found.
    """
    for attempt in range(_WORLDS):
        rng = np.random.default_rng([seed, scene_number, attempt])
        world = _draw(rng)
        if world is not None:
            return world
    raise RuntimeError(
        f"build_world: seed must give {MIN_OBJECTS} to {MAX_OBJECTS} objects in every key frame, "
        f"{MIN_OCCLUDED:.0%} of them partly occluded, got no such layout in {_WORLDS} draws for "
        f"seed {seed}, scene {scene_number}; try another seed"
    )


def _draw(rng: np.random.Generator) -> World | None:
    bend = 0.0 if rng.random() < 0.4 else float(rng.choice([-1, 1]) * rng.uniform(1 / 160, 1 / 70))
    start = rng.uniform(250, 350, 2)
    road = Road(float(start[0]), float(start[1]), float(rng.uniform(-math.pi, math.pi)), bend)
    ego = _draw_ego(rng, road)
    scenery, footprints, yards = draw_sides(rng, road)
    ripples = np.stack(
        [
            rng.uniform(0.004, 0.012, 4),
            rng.uniform(-1.2, 1.2, 4),
            rng.uniform(-1.2, 1.2, 4),
            rng.uniform(0, 2 * math.pi, 4),
        ],
        axis=1,
    )
    crowd = _Crowd(ego, footprints)
    proposer = Proposer(road, rng, yards)
    wanted = int(rng.integers(MIN_OBJECTS + 5, MAX_OBJECTS - 5))
    lighting = _draw_lighting(rng)
    for _ in range(_ROUNDS):
        _fill(rng, crowd, proposer, wanted)
        world = World(tuple(crowd.objects), tuple(scenery), ego, lighting, ripples)
        if crowd.counts.min() < MIN_OBJECTS:
            return None
        near, seen, _ = survey(world, every=3)
        hidden = (near & (seen > 0)).sum(1) < 0.4 * near.sum(1)
        if not hidden.any():
            return world if occluded_share(*survey(world)) >= MIN_OCCLUDED else None
        crowd.remove(hidden)
    return None


def survey(world: World, every: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the lidar sees of each object in each key frame, or in every third, fourth ...

    Returns:
        Three (N, 20 / every) arrays: within 54 m of the ego frame; rays that end on the object;
        rays that would if it stood alone.
    """
    times = key_frame_times()[::every]
    scanner = Scanner(world)
    casts = [scanner.cast(float(t), occlusion=True) for t in times]
    return (
        near_ego(world, OBJECT_RADIUS_M)[:, ::every],
        np.stack([c.seen for c in casts], axis=1),
        np.stack([c.alone for c in casts], axis=1),
    )


def occluded_share(near: np.ndarray, seen: np.ndarray, alone: np.ndarray) -> float:
    """Share of a scene's near and visible objects of which at least 10 % of the rays are cut off.

    Arguments are those that ``survey`` returns; an object counts once in every key frame.
    """
    visible = near & (seen > 0)
    return float((visible & (seen < _CLEAR_SHARE * alone)).sum() / visible.sum())


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


class _Crowd:
    """The objects accepted so far, and whether another one fits."""

    def __init__(self, ego: Motion, scenery: np.ndarray) -> None:
        self.objects: list[WorldObject] = []
        self._scenery = scenery
        self.ego_at_keys = poses_at(stack_motions([ego]), key_frame_times())[0]
        self._near = np.zeros((0, len(self.ego_at_keys)), bool)
        drive = poses_at(stack_motions([ego]), _TIMES)[0]
        middle = (EGO_X_M[0] + EGO_X_M[1]) / 2
        half = ((EGO_X_M[1] - EGO_X_M[0]) / 2 + _EGO_GAP_M, EGO_WIDTH_M / 2 + _EGO_GAP_M)
        drive[:, 0] += middle * np.cos(drive[:, 2])
        drive[:, 1] += middle * np.sin(drive[:, 2])
        self._tracks = [_track(drive, half)]

    @property
    def counts(self) -> np.ndarray:
        """Objects (20,) within 54 m of the ego frame in each key frame."""
        return np.asarray(self._near.sum(0))

    def classes_at(self, frame: int, names: list[str]) -> np.ndarray:
        """Objects of each class within 54 m in one key frame."""
        present = [
            o.cls.name for o, near in zip(self.objects, self._near, strict=True) if near[frame]
        ]
        return np.array([present.count(name) for name in names])

    def remove(self, which: np.ndarray) -> None:
        """Take objects (N,) bool out again."""
        self.objects = [o for o, gone in zip(self.objects, which, strict=True) if not gone]
        self._tracks = self._tracks[:1] + [
            t for t, gone in zip(self._tracks[1:], which, strict=True) if not gone
        ]
        self._near = self._near[~which]

    def add(self, item: WorldObject, most: int) -> bool:
        """Accept an object that touches nothing at any time and keeps every count in bounds."""
        motion = stack_motions([item.motion])
        at_keys = poses_at(motion, key_frame_times())[0]
        apart = np.hypot(*(at_keys - self.ego_at_keys)[:, :2].T)
        near = apart <= OBJECT_RADIUS_M
        if (self.counts + near).max() > most:
            return False
        width, length, height = item.size_wlh_m
        track = _track(poses_at(motion, _TIMES)[0], (length / 2 + _GAP_M, width / 2 + _GAP_M))
        at_rest = item.motion.speed_mps == 0 and item.motion.accel_mps2 == 0
        low = self._scenery[self._scenery[:, 5] < height]
        if footprints_touch(track[:1] if at_rest else track, low[:, None, :5]).any():
            return False
        if footprints_touch(track, np.stack(self._tracks)).any():
            return False
        self.objects.append(item)
        self._tracks.append(track)
        self._near = np.concatenate([self._near, near[None]])
        return True


def _track(poses: np.ndarray, half: tuple[float, float]) -> np.ndarray:
    return np.concatenate([poses, np.broadcast_to(half, (len(poses), 2))], axis=1)


def _fill(rng: np.random.Generator, crowd: _Crowd, proposer: Proposer, wanted: int) -> None:
    """Add groups where the fewest objects are until every key frame has its share."""
    names = list(_SHARES)
    shares = np.array([share for share, _ in _SHARES.values()])
    for _ in range(_TRIES):
        frame = int(crowd.counts.argmin())
        if crowd.counts[frame] >= wanted:
            return
        lack = np.maximum(shares * wanted - crowd.classes_at(frame, names), 0.05)
        name = names[int(rng.choice(len(names), p=lack / lack.sum()))]
        reach = _SHARES[name][1]
        travelled = proposer.road.travelled(*crowd.ego_at_keys[frame, :2])
        # Long things fit less often: without more attempts they would become rare.
        for _ in range(4):
            s = travelled + float(rng.uniform(-reach, reach))
            kept = [crowd.add(item, MAX_OBJECTS - 1) for item in proposer.propose(name, s)]
            if any(kept):
                break
