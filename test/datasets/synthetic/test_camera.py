"""What the synthetic cameras see, against projection, the lidar's ray cast and the light."""

from dataclasses import replace

import numpy as np
import pytest

from anybev.datasets.synthetic import camera as camera_module
from anybev.datasets.synthetic import lidar, rig
from anybev.datasets.synthetic.camera import SKY, Photographer, camera_pose, pixel_rays
from anybev.datasets.synthetic.layout import build_world
from anybev.datasets.synthetic.lidar import GROUND, SCENERY, Scanner
from anybev.datasets.synthetic.road import Road, road_under
from anybev.datasets.synthetic.shading import sun_direction
from anybev.datasets.synthetic.shapes import (
    BICYCLE_COLOR,
    MOTORCYCLE_COLOR,
    object_parts,
)
from anybev.datasets.synthetic.world import (
    BOX,
    CLASS_BY_NAME,
    CLASSES,
    Lighting,
    Motion,
    World,
    WorldObject,
)
from anybev.device.ops import _native

LIGHTS = {
    "day": Lighting("day", 0.4, 0.9, 1.0, 0.45, (1.0, 0.98, 0.94)),
    "overcast": Lighting("overcast", 2.0, 0.8, 0.2, 0.6, (0.93, 0.96, 1.0)),
    "dusk": Lighting("dusk", -1.0, 0.18, 0.47, 0.26, (1.0, 0.82, 0.66)),
    "night": Lighting("night", -2.0, 0.5, 0.04, 0.15, (0.75, 0.82, 1.0)),
}
EGO = Motion(300.0, 280.0, 0.7, 0.0, 5.0)


def thing(name: str, motion: Motion, color: tuple[float, float, float]) -> WorldObject:
    size = CLASS_BY_NAME[name].mean_size_wlh_m
    label = [c.name for c in CLASSES].index(name)
    return WorldObject(label, size, motion, object_parts(name, size, color, 30.0, False), color)


def world_of(*objects: WorldObject, light: str = "day", ego: Motion = EGO) -> World:
    return World(objects, (), ego, LIGHTS[light], np.zeros((0, 4)))


def before(camera: rig.Camera, distance_m: float, turn_rad: float = 0.5) -> Motion:
    """At rest in the middle of what a camera sees at t = 0."""
    position, rotation = camera_pose(camera, np.array(EGO[:3]))
    ahead = position + distance_m * rotation[:, 2]
    return Motion(float(ahead[0]), float(ahead[1]), turn_rad)


def project(points: np.ndarray, camera: rig.Camera, ego_pose: np.ndarray) -> np.ndarray:
    """Pixels and depth (P, 3) by the tables' calibration, one matrix after the other."""
    position, rotation = camera_pose(camera, ego_pose)
    local = (points - position) @ rotation
    pixels = local @ rig.camera_intrinsic(camera).T
    return np.concatenate([pixels[:, :2] / pixels[:, 2:], local[:, 2:]], 1)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(5, 4)


@pytest.mark.parametrize("camera", rig.CAMERAS, ids=lambda c: c.channel)
@pytest.mark.parametrize("distance", [12.0, 25.0, 90.0])
def test_a_lone_object_lies_where_it_projects(camera: rig.Camera, distance: float) -> None:
    item = thing("bus", before(camera, distance), (0.5, 0.1, 0.1))
    picture = Photographer(world_of(item), 0.5).shoot(camera, 0.0)
    part = item.parts[0]
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (0, 1)])
    x, y = part.x_m + signs[:, 0] * part.a, part.y_m + signs[:, 1] * part.b
    cos, sin = np.cos(item.motion.yaw_rad), np.sin(item.motion.yaw_rad)
    z = np.where(signs[:, 2] == 1, part.z1_m, part.z0_m)
    corners = np.stack(
        [item.motion.x_m + cos * x - sin * y, item.motion.y_m + sin * x + cos * y, z], 1
    )
    found = project(corners, rig.scaled(camera, 0.5), np.array(EGO[:3]))
    assert found[:, 2].min() > 0
    rows, columns = np.nonzero(picture.owner == 0)
    height, width = picture.owner.shape
    for pixels, coordinate, size in ((columns, found[:, 0], width), (rows, found[:, 1], height)):
        # The outermost pixels whose centres the hull covers.
        low, high = max(coordinate.min(), 0.0), min(coordinate.max(), float(size))
        assert low - 1e-3 <= pixels.min() + 0.5 < low + 1.2
        assert high - 1.2 < pixels.max() + 0.5 <= high + 1e-3


def solids_about(world: World, t_s: float, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All solids (9, M) as the lidar's intersections take them, and their owners (M,)."""
    rows, owners = [], []
    poses = world.object_poses(np.array([t_s]))[:, 0]
    placed = [(i, part, poses[i]) for i, o in enumerate(world.objects) for part in o.parts]
    placed += [(SCENERY, part, np.zeros(3)) for part in world.scenery]
    for owner, part, (x, y, yaw) in placed:
        cos, sin = np.cos(yaw), np.sin(yaw)
        here = [x + cos * part.x_m - sin * part.y_m, y + sin * part.x_m + cos * part.y_m]
        turn = yaw + part.yaw_rad
        heights = [part.z0_m - position[2], part.z1_m - position[2]]
        level = [here[0] - position[0], here[1] - position[1], np.cos(turn), np.sin(turn)]
        rows.append([part.kind, *level, *heights, part.a, part.b])
        owners.append(owner)
    return np.array(rows, np.float64).T, np.array(owners)


@pytest.mark.parametrize("camera", rig.CAMERAS, ids=lambda c: c.channel)
def test_pixels_see_what_rays_hit(world: World, camera: rig.Camera) -> None:
    """The lidar's intersections, pixel by pixel, are the renderer's oracle."""
    t = 3.0
    picture = Photographer(world, 0.25).shoot(camera, t)
    small = rig.scaled(camera, 0.25)
    position, rotation = camera_pose(small, world.ego_poses(np.array([t]))[0])
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, 225, 400), rng.integers(0, 400, 400)
    rays = pixel_rays(small, rotation)
    direction = rays[0] + np.outer(column + 0.5, rays[1]) + np.outer(row + 0.5, rays[2])
    solids, owners = solids_about(world, t, position)
    best = np.where(direction[:, 2] < 0, position[2] / -direction[:, 2], np.inf)
    owner = np.where(direction[:, 2] < 0, GROUND, SKY)
    for k, own in enumerate(solids.T):
        hit = lidar._hit_box if own[0] == BOX else lidar._hit_frustum
        depth = hit(np.tile(own[:, None], len(row)), *direction.T)
        nearer = depth < best
        best, owner = np.where(nearer, depth, best), np.where(nearer, owners[k], owner)
    seen, depth = picture.owner[row, column], picture.depth_m[row, column]
    same = (seen == owner) & np.isclose(depth, best, rtol=1e-3, atol=0)
    # Rays within rounding of an edge, and ground near the horizon, may differ.
    assert same.mean() > 0.99
    assert len(set(seen)) > 3


def test_lidar_points_fall_on_their_objects(world: World) -> None:
    t = 2.0
    cast = Scanner(world).cast(t)
    cos_az, sin_az = lidar._directions(0.0)
    column, beam = np.divmod(np.arange(len(cast.owner)), lidar.BEAMS)
    hit = (cast.owner >= 0) & (cast.distance_m < lidar.MAX_RANGE_M)
    level = cast.distance_m[hit] * lidar._COS[beam[hit]]
    ego = world.ego_poses(np.array([t]))[0]
    x = level * cos_az[column[hit]] + rig.LIDAR_POSITION_M[0]
    y = level * sin_az[column[hit]]
    points = np.stack(
        [
            ego[0] + np.cos(ego[2]) * x - np.sin(ego[2]) * y,
            ego[1] + np.sin(ego[2]) * x + np.cos(ego[2]) * y,
            cast.distance_m[hit] * lidar._SIN[beam[hit]] + rig.LIDAR_POSITION_M[2],
        ],
        1,
    )
    owner = cast.owner[hit]
    photographer = Photographer(world, 0.5)
    checked = right = 0
    for camera in rig.CAMERAS:
        picture = photographer.shoot(camera, t)
        found = project(points, rig.scaled(camera, 0.5), ego)
        u, v = np.floor(found[:, 0]), np.floor(found[:, 1])
        inside = (found[:, 2] > 1) & (u >= 0) & (u < 800) & (v >= 0) & (v < 450)
        u, v = u[inside].astype(int), v[inside].astype(int)
        # From the camera's place something nearer may stand before the point.
        free = picture.depth_m[v, u] > 0.98 * found[inside, 2] - 0.1
        agree = picture.owner[v, u][free] == owner[inside][free]
        assert free.mean() > 0.8
        checked, right = checked + len(agree), right + int(agree.sum())
    assert checked > 1000
    assert right >= 0.95 * checked


def test_shadows_are_where_the_sun_does_not_reach() -> None:
    camera = rig.CAMERAS[0]
    item = thing("car", before(camera, 12.0), (0.5, 0.5, 0.5))
    world = world_of(item)
    picture = Photographer(world, 0.25).shoot(camera, 0.0)
    small = rig.scaled(camera, 0.25)
    position, rotation = camera_pose(small, np.array(EGO[:3]))
    rays = pixel_rays(small, rotation)
    row, column = np.nonzero((picture.owner == GROUND) & (picture.depth_m < 30))
    direction = rays[0] + np.outer(column + 0.5, rays[1]) + np.outer(row + 0.5, rays[2])
    feet = position + direction * picture.depth_m[row, column][:, None]
    feet[:, 2] = 0.0
    dark = np.zeros(len(row), bool)
    sun = sun_direction(world.lighting)
    solids, _ = solids_about(world, 0.0, np.zeros(3))
    for own in solids.T:
        moved = np.tile(own[:, None], len(row))
        moved[1:3] -= feet[:, :2].T
        dark |= np.isfinite(lidar._hit_box(moved, *np.tile(sun[:, None], len(row))))
    shadow = picture.raster.surface[row, column] > 0
    assert shadow.sum() > 50
    assert (shadow == dark).mean() > 0.995
    image = picture.image_rgb[row, column].mean(-1)
    assert image[shadow].mean() < 0.75 * image[~shadow].mean()


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("distance", [8.0, 20.0])
def test_colour_tells_the_cycles_apart(light: str, distance: float) -> None:
    redness = {}
    for name, color in (("motorcycle", MOTORCYCLE_COLOR), ("bicycle", BICYCLE_COLOR)):
        for camera in rig.CAMERAS:
            item = thing(name, before(camera, distance, 1.2), color)
            picture = Photographer(world_of(item, light=light), 0.5).shoot(camera, 0.0)
            pixels = picture.image_rgb[picture.owner == 0].astype(float)
            # The frame; tyres and handlebar are dark in both.
            frame = pixels[np.ptp(pixels, axis=1) > 0.5 * np.ptp(pixels, axis=1).max()]
            redness.setdefault(name, []).append(float((frame[:, 0] - frame[:, 2]).mean()))
            assert 20 < picture.image_rgb.mean() < 235
            assert picture.image_rgb.std() > 4
    assert min(redness["motorcycle"]) > 30
    assert max(redness["bicycle"]) < -30


def test_lights_differ(world: World) -> None:
    means = {}
    for name, light in LIGHTS.items():
        picture = Photographer(replace(world, lighting=light), 0.1).shoot(rig.CAMERAS[0], 0.0)
        means[name] = picture.image_rgb.mean(axis=(0, 1))
    assert means["night"].mean() < 0.5 * means["dusk"].mean() < 0.45 * means["day"].mean() * 1.2
    assert means["dusk"][0] > means["dusk"][2] + 10
    assert means["night"][2] > means["night"][0]
    assert abs(means["overcast"][0] - means["overcast"][2]) < 12


@pytest.mark.parametrize("bend", [0.0, 1 / 80, -1 / 80])
def test_the_middle_of_the_road_is_yellow(bend: float) -> None:
    road = Road(310.0, 270.0, 2.2, bend)
    ego = road.follow(0.0, -1.75, 6.0, 0.3)
    assert road_under(ego) == pytest.approx(road, abs=1e-9)
    world = world_of(ego=ego)
    t = 2.0
    pose = world.ego_poses(np.array([t]))[0]
    camera = rig.CAMERAS[3]
    picture = Photographer(world, 1.0).shoot(camera, t)
    travelled = road.travelled(pose[0], pose[1])
    for back in (5.0, 8.0, 11.0):
        for aside, yellow in ((0.15, True), (-0.15, True), (0.0, False), (1.5, False)):
            x, y, _ = road.pose(travelled - back, aside)
            u, v, depth = project(np.array([[x, y, 0.0]]), camera, pose)[0]
            assert depth > 0
            red, _, blue = (int(c) for c in picture.image_rgb[int(v), int(u)])
            assert (red > blue + 40) == yellow, (back, aside)


def test_the_same_picture_again(world: World) -> None:
    camera = rig.CAMERAS[1]
    one, other = Photographer(world, 0.2), Photographer(world, 0.2)
    first = one.shoot(camera, 1.0, (3, 1))
    one.shoot(rig.CAMERAS[2], 2.0)
    np.testing.assert_array_equal(first.image_rgb, one.shoot(camera, 1.0, (3, 1)).image_rgb)
    np.testing.assert_array_equal(first.image_rgb, other.shoot(camera, 1.0, (3, 1)).image_rgb)
    noisy = other.shoot(camera, 1.0, (3, 2))
    np.testing.assert_array_equal(first.owner, noisy.owner)
    change = np.abs(first.image_rgb.astype(int) - noisy.image_rgb)
    assert 0.5 < change.mean() < 4


def test_a_smaller_picture_shows_the_same(world: World) -> None:
    large = Photographer(world, 0.6).shoot(rig.CAMERAS[4], 1.0)
    small = Photographer(world, 0.2).shoot(rig.CAMERAS[4], 1.0)
    assert large.owner.shape == (540, 960)
    assert small.owner.shape == (180, 320)
    # The centre of a small pixel is the centre of the middle one of the nine that it covers.
    assert (large.owner[1::3, 1::3] == small.owner).mean() > 0.999
    solid = np.isfinite(small.depth_m) & (small.depth_m < 200)
    np.testing.assert_allclose(large.depth_m[1::3, 1::3][solid], small.depth_m[solid], rtol=2e-3)


@pytest.mark.parametrize("number", [1, 4])
def test_compiled_and_numpy_draw_the_same(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    if _native.load() is not None:
        pytest.skip("no compiled kernels")
    photographer = Photographer(build_world(5, number), 0.2)
    native = [photographer.shoot(camera, 1.0) for camera in rig.CAMERAS]
    monkeypatch.setattr(_native, "load", lambda: "left out")
    for camera, one in zip(rig.CAMERAS, native, strict=True):
        other = photographer.shoot(camera, 1.0)
        change = np.abs(one.image_rgb.astype(int) - other.image_rgb).max(-1)
        assert (change <= 1).mean() >= 0.999
        assert (one.owner == other.owner).mean() >= 0.9999
        np.testing.assert_allclose(
            one.raster.inverse_depth, other.raster.inverse_depth, atol=1e-6, rtol=1e-4
        )


def test_an_empty_world_is_ground_and_sky() -> None:
    picture = Photographer(world_of(), 0.1).shoot(rig.CAMERAS[0], 0.0)
    assert set(np.unique(picture.owner)) == {GROUND, SKY}
    assert np.isinf(picture.depth_m[0]).all()


def test_kernels_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if _native.load() is not None:
        pytest.skip("no compiled kernels")
    monkeypatch.setattr(camera_module, "light_values", lambda *_: np.zeros(16))
    with pytest.raises(ValueError, match="light and paints must have 15 and 14 columns, got 16"):
        Photographer(world_of(), 0.1).shoot(rig.CAMERAS[0], 0.0)
