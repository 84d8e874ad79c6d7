"""The synthetic world: what stands in a scene, how it moves, how it is lit.

Frames. *world*: x, y on the ground plane, z up, ground at z = 0; it is the data set's global frame.
*object*: x forward, y left, z up from the ground under the object's centre. Poses on the ground are
(x, y, yaw) in metres and radians. Sizes are in nuScenes' order: width, length, height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KEY_FRAMES = 20
KEY_FRAME_HZ = 2
SWEEP_HZ = 20
SWEEPS_PER_KEY_FRAME = SWEEP_HZ // KEY_FRAME_HZ
MAX_SPEED_MPS = 12.0
OBJECT_RADIUS_M = 54.0
MIN_OBJECTS, MAX_OBJECTS = 20, 40
SIZE_SPREAD = 0.15
MOVING_MPS = 0.2


class ObjectClass(NamedTuple):
    """One detection class: its category in the tables, its mean size, its attributes' family."""

    name: str
    category: str
    mean_size_wlh_m: tuple[float, float, float]
    family: str


# Mean sizes of nuScenes' training annotations, as the class-balanced baselines publish them.
CLASSES = (
    ObjectClass("car", "vehicle.car", (1.97, 4.63, 1.74), "vehicle"),
    ObjectClass("truck", "vehicle.truck", (2.51, 6.93, 2.84), "vehicle"),
    ObjectClass("bus", "vehicle.bus.rigid", (2.94, 10.5, 3.47), "vehicle"),
    ObjectClass("trailer", "vehicle.trailer", (2.90, 12.29, 3.87), "vehicle"),
    ObjectClass("construction_vehicle", "vehicle.construction", (2.85, 6.37, 3.19), "vehicle"),
    ObjectClass("pedestrian", "human.pedestrian.adult", (0.67, 0.73, 1.77), "pedestrian"),
    ObjectClass("motorcycle", "vehicle.motorcycle", (0.77, 2.11, 1.47), "cycle"),
    ObjectClass("bicycle", "vehicle.bicycle", (0.60, 1.70, 1.28), "cycle"),
    ObjectClass("traffic_cone", "movable_object.trafficcone", (0.41, 0.41, 1.07), ""),
    ObjectClass("barrier", "movable_object.barrier", (2.53, 0.50, 0.98), ""),
)
CLASS_BY_NAME = {c.name: c for c in CLASSES}

BOX, FRUSTUM = 0, 1


class Part(NamedTuple):
    """One convex solid of an object or of the scenery.

    A box has half-lengths ``a`` along its x and ``b`` along its y; a frustum (upright, round) has
    radius ``a`` at ``z0_m`` and ``b`` at ``z1_m``. Position and heading are in the owner's frame,
    heights above the ground. ``reflectivity`` is the mean lidar intensity, 0..255.
    """

    kind: int
    x_m: float
    y_m: float
    yaw_rad: float
    z0_m: float
    z1_m: float
    a: float
    b: float
    reflectivity: float
    color_rgb: tuple[float, float, float]


class Motion(NamedTuple):
    """Travel along an arc of constant curvature, with constant acceleration until 0 or 12 m/s.

    Before t = 0 the speed is the initial one.
    """

    x_m: float
    y_m: float
    yaw_rad: float
    curvature: float = 0.0
    speed_mps: float = 0.0
    accel_mps2: float = 0.0


def speeds_at(motions: np.ndarray, t_s: np.ndarray) -> np.ndarray:
    """Speeds (N, T) in m/s of N stacked ``Motion`` rows at T times."""
    v0, accel = motions[:, 4, None], motions[:, 5, None]
    return np.asarray(np.clip(v0 + accel * np.maximum(t_s, 0.0), 0.0, MAX_SPEED_MPS))


def poses_at(motions: np.ndarray, t_s: np.ndarray) -> np.ndarray:
    """Ground poses (N, T, 3) of N stacked ``Motion`` rows at T times in seconds."""
    x, y, yaw, curvature, v0, accel = (motions[:, i, None] for i in range(6))
    later = np.maximum(t_s, 0.0)
    final = np.where(accel > 0, MAX_SPEED_MPS, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        until = np.where(accel == 0, np.inf, (final - v0) / accel)
    ramp = np.minimum(later, until)
    path = v0 * (np.minimum(t_s, 0.0) + ramp) + 0.5 * accel * ramp**2 + final * (later - ramp)
    turn = curvature * path
    chord = path * np.sinc(turn / (2 * np.pi))
    middle = yaw + turn / 2
    return np.stack([x + chord * np.cos(middle), y + chord * np.sin(middle), yaw + turn], -1)


@dataclass(frozen=True)
class WorldObject:
    """One annotated object.

    Attributes:
        label: index into ``CLASSES``.
        size_wlh_m: width, length, height of its box, which stands on the ground.
        motion: where it is at any time.
        parts: its solids, all inside the box.
        color_rgb: its main colour, 0..1: all that tells a motorcycle from a bicycle.
        parked: a vehicle at rest is parked (else stopped).
        rider: a cycle carries one.
    """

    label: int
    size_wlh_m: tuple[float, float, float]
    motion: Motion
    parts: tuple[Part, ...]
    color_rgb: tuple[float, float, float]
    parked: bool = False
    rider: bool = False

    @property
    def cls(self) -> ObjectClass:
        """Its class."""
        return CLASSES[self.label]

    def attribute(self, speed_mps: float) -> str:
        """Name of its nuScenes attribute while it moves at ``speed_mps``; "" when it has none."""
        if self.cls.family == "vehicle":
            if speed_mps > MOVING_MPS:
                return "vehicle.moving"
            return "vehicle.parked" if self.parked else "vehicle.stopped"
        if self.cls.family == "cycle":
            return "cycle.with_rider" if self.rider else "cycle.without_rider"
        if self.cls.family == "pedestrian":
            return "pedestrian.moving" if speed_mps > MOVING_MPS else "pedestrian.standing"
        return ""


@dataclass(frozen=True)
class Lighting:
    """Light of a scene, for the cameras.

    Attributes:
        name: "day", "overcast", "dusk" or "night".
        sun_azimuth_rad, sun_elevation_rad: direction towards the sun, world frame.
        sun, ambient: strengths, 0..1.
        tint_rgb: colour of the light.
    """

    name: str
    sun_azimuth_rad: float
    sun_elevation_rad: float
    sun: float
    ambient: float
    tint_rgb: tuple[float, float, float]


@dataclass(frozen=True)
class World:
    """One scene.

    Attributes:
        objects: everything annotated.
        scenery: walls, poles and trees, which belong to no class; parts in the world frame.
        ego: motion of the ego frame (middle of the rear axle, on the ground).
        lighting: for the cameras.
        ripples: (R, 4) amplitude in metres, wave vector in rad/m, phase: roughness of the ground.
    """

    objects: tuple[WorldObject, ...]
    scenery: tuple[Part, ...]
    ego: Motion
    lighting: Lighting
    ripples: np.ndarray

    def object_poses(self, t_s: np.ndarray) -> np.ndarray:
        """Poses (N, T, 3) of the objects at T times."""
        return poses_at(stack_motions([o.motion for o in self.objects]), t_s)

    def object_speeds(self, t_s: np.ndarray) -> np.ndarray:
        """Speeds (N, T) of the objects at T times."""
        return speeds_at(stack_motions([o.motion for o in self.objects]), t_s)

    def ego_poses(self, t_s: np.ndarray) -> np.ndarray:
        """Poses (T, 3) of the ego frame at T times."""
        return np.asarray(poses_at(stack_motions([self.ego]), t_s)[0])


def stack_motions(motions: Sequence[Motion]) -> np.ndarray:
    """Motions as rows (N, 6) for the vectorised functions."""
    return np.array(motions, dtype=np.float64).reshape(-1, 6)


def key_frame_times() -> np.ndarray:
    """Times (20,) of the key frames, in seconds from the first."""
    return np.arange(KEY_FRAMES) / KEY_FRAME_HZ


def sweep_times() -> np.ndarray:
    """Times of all lidar sweeps, first to last key frame, in seconds from the first."""
    return np.arange((KEY_FRAMES - 1) * SWEEPS_PER_KEY_FRAME + 1) / SWEEP_HZ


def near_ego(world: World, radius_m: float) -> np.ndarray:
    """Which objects (N, 20) are within a radius of the ego frame in each key frame."""
    times = key_frame_times()
    offset = world.object_poses(times)[..., :2] - world.ego_poses(times)[:, :2]
    return np.asarray(np.hypot(offset[..., 0], offset[..., 1]) <= radius_m)
