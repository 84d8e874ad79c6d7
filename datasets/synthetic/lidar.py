"""A spinning 32-beam lidar, ray-cast analytically against boxes and frustums.

Every (solid, ray) pair that the solid's angular window allows is intersected in one vectorised
pass; the nearest hit of each ray wins. Nothing here goes through a BLAS, so a sweep has the same
bits whatever the number of threads.

Frames. *sensor*: ego axes (x forward, y left, z up), origin at the lidar; the cast runs in it.
*lidar*: the data set's, x right, y forward, z up; points leave in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anybev.datasets.synthetic.rig import LIDAR_POSITION_M
from anybev.datasets.synthetic.world import BOX, Part, World

BEAMS = 32
AZIMUTHS = 1084
MAX_RANGE_M = 70.0
NOISE_M = 0.02
DROP_RATE = 0.05
_ELEVATIONS_RAD = np.radians(np.linspace(-30.67, 10.67, BEAMS))
_ELEVATION_STEP = float(_ELEVATIONS_RAD[1] - _ELEVATIONS_RAD[0])
_AZIMUTH_STEP = 2 * np.pi / AZIMUTHS
_SIN = np.sin(_ELEVATIONS_RAD).astype(np.float32)
_COS = np.cos(_ELEVATIONS_RAD).astype(np.float32)
_HEIGHT = LIDAR_POSITION_M[2]

# The roof under the lidar: x interval in the ego frame, half-width, height above the ground.
_ROOF_X_M, _ROOF_HALF_WIDTH_M, _ROOF_HEIGHT_M = (-0.2, 2.0), 0.62, 1.5

SCENERY, GROUND, EGO = -1, -2, -3


@dataclass(frozen=True)
class Cast:
    """Where the 1,084 x 32 rays of one turn end (azimuth-major), before the sensor measures.

    Attributes:
        distance_m: (R,) float32, inf where a ray meets nothing.
        owner: (R,) int32: index of the object hit, or SCENERY, GROUND, EGO.
        intensity: (R,) float32 mean intensity.
        seen: (N,) rays that end on each object within range.
        alone: (N,) rays that would end on it if it stood alone with the ego vehicle (no ground,
            no scenery); zeros unless asked for.
    """

    distance_m: np.ndarray
    owner: np.ndarray
    intensity: np.ndarray
    seen: np.ndarray
    alone: np.ndarray


@dataclass(frozen=True)
class Sweep:
    """One turn of the lidar.

    Attributes:
        points_lidar_m: (P, 5) float32: x, y, z in metres, intensity 0..255, beam 0..31.
        owner: (P,) int32: index of the object hit, or SCENERY, GROUND, EGO.
        cast: the rays behind the points.
    """

    points_lidar_m: np.ndarray
    owner: np.ndarray
    cast: Cast

    def points_on(self, count: int) -> np.ndarray:
        """Points (count,) that the sweep holds on each of the first ``count`` objects."""
        return np.bincount(self.owner[self.owner >= 0], minlength=count)[:count]


class Scanner:
    """Casts sweeps of one world.

    Args:
        world: the scene.
    """

    def __init__(self, world: World) -> None:
        rows: list[tuple[int, Part]] = [
            (i, part) for i, o in enumerate(world.objects) for part in o.parts
        ]
        rows += [(SCENERY, part) for part in world.scenery]
        self._world = world
        self._owner = np.array([owner for owner, _ in rows], np.int32)
        self._parts = np.array([part[:9] for _, part in rows], np.float64).reshape(-1, 9)

    def sweep(self, t_s: float, rng: np.random.Generator, *, occlusion: bool = False) -> Sweep:
        """One measured turn; ``rng`` gives its phase, noise and dropped returns (see ``cast``)."""
        phase = float(rng.uniform(0, _AZIMUTH_STEP))
        cast = self.cast(t_s, phase, occlusion=occlusion)
        points, kept = _measure(cast, *_directions(phase), rng)
        return Sweep(points, cast.owner[kept], cast)

    def cast(self, t_s: float, phase_rad: float = 0.0, *, occlusion: bool = False) -> Cast:
        """Cast one turn at time ``t_s`` (the whole turn sees the world of that instant).

        Args:
            t_s: seconds from the scene's first key frame.
            phase_rad: azimuth of the first column; the turn is clockwise.
            occlusion: also count ``Cast.alone``.
        """
        cos_az, sin_az = _directions(phase_rad)
        ego = self._world.ego_poses(np.array([t_s]))[0]
        count = len(self._world.objects)
        distance, owner, intensity = _background(self._world.ripples, ego, cos_az, sin_az)
        solids = _to_sensor(self._parts, self._owner, self._poses(t_s), ego)
        ray, solid = _candidates(solids, phase_rad)
        depth = _intersect(solids, ray, solid, cos_az, sin_az)
        hit = depth < MAX_RANGE_M
        ray, solid, depth = ray[hit], solid[hit], depth[hit]
        alone = np.zeros(count, np.int64)
        if occlusion:
            # The vehicle's own roof is always there: what it takes is not occlusion.
            mine = (self._owner[solid] >= 0) & (owner[ray] != EGO)
            keys = np.unique(self._owner[solid[mine]] * (BEAMS * AZIMUTHS) + ray[mine])
            alone += np.bincount(keys // (BEAMS * AZIMUTHS), minlength=count)
        np.minimum.at(distance, ray, depth)
        first = depth == distance[ray]
        owner[ray[first]] = self._owner[solid[first]]
        intensity[ray[first]] = self._parts[solid[first], 8]
        seen = np.bincount(owner[(owner >= 0) & (distance < MAX_RANGE_M)], minlength=count)
        return Cast(distance, owner, intensity, seen, alone)

    def _poses(self, t_s: float) -> np.ndarray:
        """World poses (N + 1, 3): the objects', then the identity that the scenery refers to."""
        poses = self._world.object_poses(np.array([t_s]))[:, 0]
        return np.concatenate([poses, np.zeros((1, 3))])


def _directions(phase_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine (1084,) float32 of the columns' azimuths."""
    azimuth = phase_rad - np.arange(AZIMUTHS) * _AZIMUTH_STEP
    return np.cos(azimuth).astype(np.float32), np.sin(azimuth).astype(np.float32)


def _background(
    ripples: np.ndarray, ego: np.ndarray, cos_az: np.ndarray, sin_az: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance, owner and mean intensity of every ray (azimuth-major) without solids."""
    distance = np.full((AZIMUTHS, BEAMS), np.inf, np.float32)
    owner = np.full((AZIMUTHS, BEAMS), GROUND, np.int32)
    intensity = np.full((AZIMUTHS, BEAMS), 11.0, np.float32)
    down = int(np.searchsorted(_SIN, -0.02))
    flat = _HEIGHT / -_SIN[:down]
    reach = flat * _COS[:down]
    # The ground's waves are sampled where the ray meets the mean plane.
    cos_yaw, sin_yaw = np.cos(ego[2]), np.sin(ego[2])
    x = (
        ego[0]
        + LIDAR_POSITION_M[0] * cos_yaw
        + reach * (cos_yaw * cos_az - sin_yaw * sin_az)[:, None].astype(np.float32)
    )
    y = (
        ego[1]
        + LIDAR_POSITION_M[0] * sin_yaw
        + reach * (sin_yaw * cos_az + cos_yaw * sin_az)[:, None].astype(np.float32)
    )
    bump = np.zeros((AZIMUTHS, down), np.float32)
    for amplitude, kx, ky, offset in ripples:
        bump += np.float32(amplitude) * np.sin((kx * x + ky * y + offset).astype(np.float32))
    distance[:, :down] = flat * (1 - bump / np.float32(_HEIGHT))
    intensity[:, :down] += 60.0 * bump

    # The ego roof hides the steepest beams.
    fall = (_HEIGHT - _ROOF_HEIGHT_M) / -_SIN[:down]
    roof_x = fall * _COS[:down] * cos_az[:, None] + LIDAR_POSITION_M[0]
    roof_y = fall * _COS[:down] * sin_az[:, None]
    roof = (roof_x > _ROOF_X_M[0]) & (roof_x < _ROOF_X_M[1])
    roof &= np.abs(roof_y) < _ROOF_HALF_WIDTH_M
    distance[:, :down][roof] = np.broadcast_to(fall, roof.shape)[roof]
    owner[:, :down][roof] = EGO
    return distance.reshape(-1), owner.reshape(-1), intensity.reshape(-1)


def _to_sensor(
    parts: np.ndarray, owner: np.ndarray, poses: np.ndarray, ego: np.ndarray
) -> np.ndarray:
    """Solids (M, 9) in the sensor frame: kind, x, y, cos, sin, z0, z1, a, b."""
    pose = poses[owner]
    cos, sin = np.cos(pose[:, 2]), np.sin(pose[:, 2])
    dx = pose[:, 0] + cos * parts[:, 1] - sin * parts[:, 2] - ego[0]
    dy = pose[:, 1] + sin * parts[:, 1] + cos * parts[:, 2] - ego[1]
    cos_ego, sin_ego = np.cos(ego[2]), np.sin(ego[2])
    yaw = pose[:, 2] + parts[:, 3] - ego[2]
    return np.stack(
        [
            parts[:, 0],
            cos_ego * dx + sin_ego * dy - LIDAR_POSITION_M[0],
            cos_ego * dy - sin_ego * dx,
            np.cos(yaw),
            np.sin(yaw),
            parts[:, 4] - _HEIGHT,
            parts[:, 5] - _HEIGHT,
            parts[:, 6],
            parts[:, 7],
        ],
        axis=1,
    )


def _candidates(solids: np.ndarray, phase: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (ray, solid) whose ray lies in the solid's window of azimuth and elevation."""
    kind, x, y, cos, sin, z0, z1, a, b = solids.T
    box = kind == BOX
    radius = np.where(box, np.hypot(a, b), np.maximum(a, b))
    center = np.hypot(x, y)
    bearing = np.arctan2(y, x)
    # Corners of a box; for a round solid the half-angle of its widest circle.
    side = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float64)
    along, across = side[:, :1] * a, side[:, 1:] * b
    corner_x = x + along * cos - across * sin
    corner_y = y + along * sin + across * cos
    swing = np.arctan2(corner_y * x - corner_x * y, corner_x * x + corner_y * y)
    half = np.arcsin(np.minimum(radius / np.maximum(center, radius), 1.0))
    low = bearing + np.where(box, swing.min(0), -half)
    high = bearing + np.where(box, swing.max(0), half)
    # Nearest and farthest horizontal distance bound the elevations.
    local_x, local_y = np.abs(x * cos + y * sin), np.abs(y * cos - x * sin)
    gap = np.hypot(np.maximum(local_x - a, 0), np.maximum(local_y - b, 0))
    near = np.maximum(np.where(box, gap, center - radius), 0.05)
    far = center + radius
    top = np.arctan2(z1, np.where(z1 > 0, near, far))
    bottom = np.arctan2(z0, np.where(z0 < 0, near, far))
    beam_low = np.ceil((bottom - _ELEVATIONS_RAD[0]) / _ELEVATION_STEP - 1e-6)
    beam_high = np.floor((top - _ELEVATIONS_RAD[0]) / _ELEVATION_STEP + 1e-6)
    beam_low = np.clip(beam_low, 0, BEAMS).astype(np.int32)
    beams = np.clip(beam_high, -1, BEAMS - 1).astype(np.int32) - beam_low + 1
    column_low = np.ceil((phase - high) / _AZIMUTH_STEP - 1e-6).astype(np.int32)
    columns = np.floor((phase - low) / _AZIMUTH_STEP + 1e-6).astype(np.int32) - column_low + 1
    size = np.maximum(beams, 0) * np.maximum(columns, 0)
    size[near > MAX_RANGE_M] = 0
    total = int(size.sum())
    solid = np.repeat(np.arange(len(solids), dtype=np.int32), size)
    within = np.arange(total, dtype=np.int32) - np.repeat(
        (np.cumsum(size) - size).astype(np.int32), size
    )
    column, beam = np.divmod(within, beams[solid])
    column = (column + column_low[solid]) % AZIMUTHS
    return column * BEAMS + beam + beam_low[solid], solid


def _intersect(
    solids: np.ndarray,
    ray: np.ndarray,
    solid: np.ndarray,
    cos_az: np.ndarray,
    sin_az: np.ndarray,
) -> np.ndarray:
    """Distance along each pair's ray to its solid, inf where it misses."""
    column, beam = np.divmod(ray, BEAMS)
    level, dz = _COS[beam], _SIN[beam]
    dx, dy = level * cos_az[column], level * sin_az[column]
    own = solids.astype(np.float32)
    depth = np.full(len(ray), np.inf, np.float32)
    is_box = own[solid, 0] == BOX
    for chosen, solve in ((is_box, _hit_box), (~is_box, _hit_frustum)):
        index = np.flatnonzero(chosen)
        if len(index):
            depth[index] = solve(own[solid[index]].T, dx[index], dy[index], dz[index])
    return depth


def _hit_box(own: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """Entry distances into upright boxes (slab method)."""
    _, x, y, cos, sin, z0, z1, a, b = own
    near = np.full(len(dx), -np.inf, np.float32)
    far = np.full(len(dx), np.inf, np.float32)
    origin_x, origin_y = -(x * cos + y * sin), x * sin - y * cos
    slabs = (
        (dx * cos + dy * sin, -a - origin_x, a - origin_x),
        (dy * cos - dx * sin, -b - origin_y, b - origin_y),
        (dz, z0, z1),
    )
    for direction, low, high in slabs:
        with np.errstate(divide="ignore"):
            inverse = 1 / np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
        first, second = low * inverse, high * inverse
        near = np.maximum(near, np.minimum(first, second))
        far = np.minimum(far, np.maximum(first, second))
    return np.where((near <= far) & (near > 0), near, np.float32(np.inf))


def _hit_frustum(own: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """Entry distances into upright frustums: the side, or the cap that faces the sensor."""
    _, x, y, _, _, z0, z1, a, b = own
    slope = (b - a) / (z1 - z0)
    base = a - slope * z0
    level2 = dx * dx + dy * dy
    quad = level2 - (slope * dz) ** 2
    lin = x * dx + y * dy + base * slope * dz
    rest = x * x + y * y - base * base
    root = lin * lin - quad * rest
    with np.errstate(invalid="ignore", divide="ignore"):
        side = (lin - np.sqrt(root)) / quad
        height = side * dz
        side = np.where((root >= 0) & (side > 0) & (height >= z0) & (height <= z1), side, np.inf)
        facing = np.where(dz < 0, z1, z0)
        cap = facing / dz
        aside2 = (cap * dx - x) ** 2 + (cap * dy - y) ** 2
        radius = base + slope * facing
        cap = np.where((cap > 0) & (aside2 <= radius * radius), cap, np.inf)
    return np.minimum(side, cap).astype(np.float32)


def _measure(
    cast: Cast, cos_az: np.ndarray, sin_az: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy points (P, 5) in the lidar frame, and the rays that they come from."""
    distance, intensity = cast.distance_m, cast.intensity
    rays = len(distance)
    noise = rng.standard_normal(rays, np.float32)
    returned = (distance < MAX_RANGE_M) & (rng.random(rays, np.float32) >= DROP_RATE)
    speckle = rng.random(rays, np.float32)
    kept = np.flatnonzero(returned)
    column, beam = np.divmod(kept, BEAMS)
    reach = distance[kept] + np.float32(NOISE_M) * noise[kept]
    level = reach * _COS[beam]
    points = np.empty((len(kept), 5), np.float32)
    points[:, 0] = -level * sin_az[column]
    points[:, 1] = level * cos_az[column]
    points[:, 2] = reach * _SIN[beam]
    points[:, 3] = np.clip(np.floor(intensity[kept] * (0.6 + 0.8 * speckle[kept])), 0, 255)
    points[:, 4] = beam
    return points, kept
