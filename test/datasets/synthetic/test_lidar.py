import numpy as np
import pytest

from anybev.datasets.synthetic.layout import build_world
from anybev.datasets.synthetic.lidar import (
    AZIMUTHS,
    BEAMS,
    EGO,
    GROUND,
    MAX_RANGE_M,
    SCENERY,
    Scanner,
)
from anybev.datasets.synthetic.world import BOX, FRUSTUM, Lighting, Motion, Part, World

GRAY = (0.5, 0.5, 0.5)
LIGHT = Lighting("day", 0.0, 0.9, 1.0, 0.4, GRAY)


def bare(*scenery: Part, ego: Motion | None = None) -> World:
    return World((), scenery, ego or Motion(0, 0, 0), LIGHT, np.zeros((0, 4)))


def solids(rng: np.random.Generator) -> list[Part]:
    parts = []
    for i in range(14):
        bearing, far = rng.uniform(-3.1, 3.1), rng.uniform(5, 40)
        x, y = far * np.cos(bearing), far * np.sin(bearing)
        z0 = float(rng.uniform(0, 3))
        a, b = rng.uniform(0.3, 3.0, 2)
        if i % 2:
            a, b = rng.uniform(0.2, 1.2, 2)
        kind = FRUSTUM if i % 2 else BOX
        height = float(rng.uniform(0.5, 4))
        parts.append(Part(kind, x, y, rng.uniform(-3, 3), z0, z0 + height, a, b, 20.0, GRAY))
    return parts


def inside(part: Part, p: np.ndarray, slack: float) -> np.ndarray:
    """Whether world points (..., 3) lie in a solid grown by ``slack``."""
    dx, dy = p[..., 0] - part.x_m, p[..., 1] - part.y_m
    level = (p[..., 2] > part.z0_m - slack) & (p[..., 2] < part.z1_m + slack)
    if part.kind == BOX:
        c, s = np.cos(part.yaw_rad), np.sin(part.yaw_rad)
        along, across = dx * c + dy * s, dy * c - dx * s
        return level & (np.abs(along) < part.a + slack) & (np.abs(across) < part.b + slack)
    share = (p[..., 2] - part.z0_m) / (part.z1_m - part.z0_m)
    return level & (np.hypot(dx, dy) < part.a + (part.b - part.a) * share + slack)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cast_agrees_with_marching_along_the_rays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = solids(rng)
    ego = Motion(1.0, -2.0, 0.8)
    cast = Scanner(bare(*parts, ego=ego)).cast(0.0, phase_rad=0.003)
    rays = rng.choice(BEAMS * AZIMUTHS, 1500, replace=False)
    rays = rays[cast.owner[rays] != EGO]
    azimuth = 0.003 - (rays // BEAMS) * 2 * np.pi / AZIMUTHS + ego.yaw_rad
    rise = np.radians(-30.67 + (rays % BEAMS) * 41.34 / 31)
    direction = np.stack(
        [np.cos(rise) * np.cos(azimuth), np.cos(rise) * np.sin(azimuth), np.sin(rise)], -1
    )
    origin = np.array([1 + 0.943 * np.cos(0.8), -2 + 0.943 * np.sin(0.8), 1.84])
    step = 0.04
    t = np.arange(0, 46, step)
    path = origin + direction[:, None] * t[:, None]
    deep = np.zeros(path.shape[:2], bool)
    for part in parts:
        deep |= inside(part, path, -0.02)
    marched = np.where(deep.any(1), t[deep.argmax(1)], np.inf)
    depth = np.where(cast.owner[rays] == SCENERY, cast.distance_m[rays], np.inf)
    ground = np.where(direction[:, 2] < 0, 1.84 / np.maximum(-direction[:, 2], 1e-9), np.inf)
    above = marched < ground
    assert above.sum() > 40
    assert (depth[above] <= marched[above] + 1e-3).all()
    # Where the cast hits, the point is on a solid, and nothing was in the way.
    struck = np.isfinite(depth)
    hit = origin + direction[struck] * depth[struck, None]
    assert np.any([inside(p, hit, 2e-3) for p in parts], axis=0).all()
    assert (marched[struck] > depth[struck] - step).all()


def test_bare_ground_is_a_set_of_rings() -> None:
    cast = Scanner(bare()).cast(0.0)
    distance = cast.distance_m.reshape(AZIMUTHS, BEAMS)
    owner = cast.owner.reshape(AZIMUTHS, BEAMS)
    rise = np.radians(np.linspace(-30.67, 10.67, 32))
    ground = owner == GROUND
    expected = np.broadcast_to(1.84 / np.sin(-rise[:22]), (AZIMUTHS, 22))
    near = expected < MAX_RANGE_M
    np.testing.assert_allclose(
        distance[:, :22][ground[:, :22] & near], expected[ground[:, :22] & near], rtol=1e-5
    )
    assert not np.isfinite(distance[:, 23:]).any()
    # The ego roof takes the steepest beam all round, and none above -9 degrees.
    assert (owner[:, 0] == EGO).all()
    assert (owner[:, 16:] != EGO).all()


def test_points_are_in_the_lidar_frame_with_noise_and_losses() -> None:
    wall = Part(BOX, 20.0 + 0.943, 0.0, 0.0, 0.0, 8.0, 0.5, 6.0, 20.0, GRAY)
    scanner = Scanner(bare(wall))
    sweep = scanner.sweep(0.0, np.random.default_rng(0))
    points = sweep.points_lidar_m
    assert points.dtype == np.float32
    assert points.shape[1] == 5
    hit = points[sweep.owner == SCENERY]
    # Forward is +y of the lidar; the face stands 19.5 m ahead.
    assert np.abs(hit[:, 1] - 19.5).max() < 0.12
    assert np.abs(hit[:, 1] - 19.5).std() < 0.03
    assert np.abs(hit[:, 0]).max() < 6.1
    assert set(np.unique(points[:, 4])) <= set(range(32))
    assert points[:, 3].min() >= 0
    assert points[:, 3].max() <= 255
    returned = np.isfinite(sweep.cast.distance_m) & (sweep.cast.distance_m < MAX_RANGE_M)
    assert abs(len(points) / returned.sum() - 0.95) < 0.005
    reach = np.linalg.norm(points[sweep.owner == GROUND, :3], axis=1)
    beam = points[sweep.owner == GROUND, 4].astype(int)
    error = reach - 1.84 / np.sin(-np.radians(np.linspace(-30.67, 10.67, 32)))[beam]
    assert abs(error.std() - 0.02) < 0.001
    assert abs(error.mean()) < 0.001


def test_right_of_the_car_is_positive_x() -> None:
    post = Part(FRUSTUM, 0.943, -5.0, 0.0, 0.0, 3.0, 0.3, 0.3, 20.0, GRAY)
    sweep = Scanner(bare(post)).sweep(0.0, np.random.default_rng(0))
    hit = sweep.points_lidar_m[sweep.owner == SCENERY]
    assert len(hit) > 20
    assert (np.abs(hit[:, 0] - 4.75) < 0.2).all()
    assert (np.abs(hit[:, 1]) < 0.35).all()


def test_nearer_solids_hide_farther_ones() -> None:
    front = Part(BOX, 10.0, 0.0, 0.0, 0.0, 9.0, 0.2, 9.0, 20.0, GRAY)
    behind = Part(BOX, 14.0, 0.0, 0.0, 0.0, 3.0, 0.2, 2.0, 99.0, GRAY)
    cast = Scanner(bare(front, behind)).cast(0.0)
    assert (cast.intensity[cast.owner == SCENERY] == 20.0).all()


def test_sweeps_depend_on_their_generator_alone() -> None:
    scanner = Scanner(build_world(3, 2))
    first = scanner.sweep(1.0, np.random.default_rng(7)).points_lidar_m
    scanner.sweep(0.5, np.random.default_rng(3))
    again = scanner.sweep(1.0, np.random.default_rng(7), occlusion=True).points_lidar_m
    np.testing.assert_array_equal(first, again)
    other = scanner.sweep(1.0, np.random.default_rng(8)).points_lidar_m
    assert first.shape != other.shape or (first != other).any()


def test_a_world_without_anything_and_one_with_one_object() -> None:
    assert Scanner(bare()).sweep(0.0, np.random.default_rng(0)).points_on(0).shape == (0,)
    world = build_world(3, 2)
    single = World(world.objects[:1], (), world.ego, world.lighting, world.ripples)
    sweep = Scanner(single).sweep(0.0, np.random.default_rng(0), occlusion=True)
    assert sweep.points_on(1).shape == sweep.cast.seen.shape == sweep.cast.alone.shape == (1,)
