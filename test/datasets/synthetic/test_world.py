from functools import cache

import numpy as np
import pytest

from anybev.datasets.synthetic import layout
from anybev.datasets.synthetic.lidar import Scanner
from anybev.datasets.synthetic.placement import draw_size
from anybev.datasets.synthetic.rig import EGO_WIDTH_M, EGO_X_M
from anybev.datasets.synthetic.road import Road, footprints_touch
from anybev.datasets.synthetic.shapes import BICYCLE_COLOR, MOTORCYCLE_COLOR, object_parts
from anybev.datasets.synthetic.world import (
    BOX,
    CLASSES,
    MAX_SPEED_MPS,
    Motion,
    World,
    key_frame_times,
    near_ego,
    poses_at,
    speeds_at,
    stack_motions,
    sweep_times,
)

SCENES = [(3, 1), (3, 2), (11, 7)]


@cache
def scene(seed: int, number: int) -> World:
    return layout.build_world(seed, number)


@pytest.fixture(params=SCENES, ids=str)
def world(request: pytest.FixtureRequest) -> World:
    return scene(*request.param)


def test_motion_is_the_integral_of_speed_along_its_heading() -> None:
    motions = stack_motions(
        [
            Motion(1, 2, 0.3, 0.02, 5, 0.5),
            Motion(0, 0, -2, -0.05, 3, -0.6),
            Motion(4, 4, 1, 0.0, 11, 0.7),
            Motion(4, 4, 1, 0.0, 0, 0.0),
        ]
    )
    t = np.linspace(-0.5, 10, 21001)
    poses, speeds = poses_at(motions, t), speeds_at(motions, t)
    step = np.diff(poses, axis=1) / np.diff(t)[:, None]
    middle = (speeds[:, 1:] + speeds[:, :-1]) / 2
    np.testing.assert_allclose(np.hypot(step[..., 0], step[..., 1]), middle, atol=1e-3)
    heading = (poses[:, 1:, 2] + poses[:, :-1, 2]) / 2
    along = step[..., 0] * np.cos(heading) + step[..., 1] * np.sin(heading)
    np.testing.assert_allclose(along, middle, atol=1e-3)
    assert speeds.max() <= MAX_SPEED_MPS
    assert speeds[1, -1] == 0
    np.testing.assert_array_equal(poses[1, -1], poses[1, -100])


@pytest.mark.parametrize("curvature", [0.0, 1 / 70, -1 / 90])
def test_lane_motion_stays_on_the_road(curvature: float) -> None:
    road = Road(300, 200, 0.7, curvature)
    for d in (-5.25, 1.75):
        motion = stack_motions([road.follow(10.0, d, 8.0, 0.0)])
        for x, y, yaw in poses_at(motion, np.arange(0, 8, 0.5))[0]:
            s = road.travelled(x, y)
            expected = road.pose(s, d, np.pi if d > 0 else 0)
            np.testing.assert_allclose((x, y), expected[:2], atol=1e-6)
            np.testing.assert_allclose(np.cos(yaw - expected[2]), 1, atol=1e-9)


def test_footprints_touch_agrees_with_sampled_points() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41)), -1).reshape(-1, 2)

    def cover(r: np.ndarray) -> np.ndarray:
        local = grid * r[3:]
        c, s = np.cos(r[2]), np.sin(r[2])
        return local @ np.array([[c, s], [-s, c]]) + r[:2]

    def holds(r: np.ndarray, p: np.ndarray) -> np.ndarray:
        c, s = np.cos(r[2]), np.sin(r[2])
        q = (p - r[:2]) @ np.array([[c, -s], [s, c]])
        return (np.abs(q) <= r[3:]).all(1)

    one = np.array([0.0, 0.0, 0.4, 2.0, 0.8])
    others = np.concatenate(
        [rng.uniform(-4, 4, (300, 2)), rng.uniform(-4, 4, (300, 1)), rng.uniform(0.3, 3, (300, 2))],
        axis=1,
    )
    touch = footprints_touch(one[None], others[:, None])
    sampled = np.array([holds(o, cover(one)).any() or holds(one, cover(o)).any() for o in others])
    assert (touch | ~sampled).all()
    assert (touch != sampled).sum() <= 6  # overlaps thinner than the sampling
    assert 50 < sampled.sum() < 250


def test_sizes_keep_within_15_percent_and_cycles_share_theirs() -> None:
    rng = np.random.default_rng(1)
    for cls in CLASSES:
        sizes = np.array([draw_size(rng, cls.name) for _ in range(400)])
        ratio = sizes / np.array(cls.mean_size_wlh_m)
        assert ratio.min() >= 0.85 - 1e-9
        assert ratio.max() <= 1.15 + 1e-9
    twins = [
        np.array([draw_size(np.random.default_rng(5), n) for _ in range(3)])
        for n in ("motorcycle", "bicycle")
    ]
    np.testing.assert_array_equal(*twins)


def test_cycles_differ_in_colour_alone() -> None:
    size = (0.67, 1.85, 1.35)
    motorcycle = object_parts("motorcycle", size, MOTORCYCLE_COLOR, 20.0, True)
    bicycle = object_parts("bicycle", size, BICYCLE_COLOR, 20.0, True)
    assert [p[:9] for p in motorcycle] == [p[:9] for p in bicycle]
    assert [p.color_rgb for p in motorcycle] != [p.color_rgb for p in bicycle]


def test_parts_lie_inside_the_box(world: World) -> None:
    for item in world.objects:
        width, length, height = item.size_wlh_m
        for p in item.parts:
            half = (p.a, p.b) if p.kind == BOX else (max(p.a, p.b),) * 2
            assert abs(p.x_m) + half[0] <= length / 2 - 0.03, item.cls.name
            assert abs(p.y_m) + half[1] <= width / 2 - 0.03, item.cls.name
            assert 0 < p.z0_m < p.z1_m <= height - 0.03


def test_counts_occlusion_and_ego_speed(world: World) -> None:
    counts = near_ego(world, 54.0).sum(0)
    assert counts.min() >= 20
    assert counts.max() <= 40
    assert layout.occluded_share(*layout.survey(world)) >= 0.3
    speeds = speeds_at(stack_motions([world.ego]), sweep_times())
    assert speeds.min() >= 0
    assert speeds.max() <= 12


def test_survey_counts_rays_as_if_alone(world: World) -> None:
    _, seen, alone = layout.survey(world)
    assert (seen <= alone).all()
    t = float(key_frame_times()[4])
    for i in range(0, len(world.objects), 5):
        single = World((world.objects[i],), (), world.ego, world.lighting, world.ripples)
        cast = Scanner(single).cast(t)
        # The ground's waves may take a ray.
        assert abs(int(cast.seen[0]) - int(alone[i, 4])) <= 2 + 0.01 * alone[i, 4]


def test_nothing_touches_anything_at_any_sweep(world: World) -> None:
    times = sweep_times()
    poses = world.object_poses(times)
    half = np.array([(o.size_wlh_m[1] / 2, o.size_wlh_m[0] / 2) for o in world.objects])
    tracks = np.concatenate([poses, np.repeat(half[:, None], len(times), 1)], -1)
    for i in range(len(tracks) - 1):
        assert not footprints_touch(tracks[i], tracks[i + 1 :]).any()
    ego = world.ego_poses(times)
    middle, reach = sum(EGO_X_M) / 2, (EGO_X_M[1] - EGO_X_M[0]) / 2
    ego[:, 0] += middle * np.cos(ego[:, 2])
    ego[:, 1] += middle * np.sin(ego[:, 2])
    size = np.broadcast_to((reach, EGO_WIDTH_M / 2), (len(ego), 2))
    assert not footprints_touch(np.concatenate([ego, size], 1), tracks).any()
    walls = np.array([(p.x_m, p.y_m, p.yaw_rad, p.a, p.b) for p in world.scenery if p.kind == BOX])
    for track in tracks:
        assert not footprints_touch(track, walls[:, None]).any()


def test_attributes_follow_motion_and_family() -> None:
    worlds = [scene(*chosen) for chosen in SCENES]
    found = set()
    for world in worlds:
        for item in world.objects:
            for speed in (0.0, 3.0):
                found.add((item.cls.family, speed > 0, item.attribute(speed)))
            if item.motion.speed_mps > 0 and item.cls.family == "cycle":
                assert item.rider
            if item.motion.speed_mps > 0:
                assert not item.parked
    assert found == {
        ("vehicle", True, "vehicle.moving"),
        ("vehicle", False, "vehicle.parked"),
        ("vehicle", False, "vehicle.stopped"),
        ("pedestrian", True, "pedestrian.moving"),
        ("pedestrian", False, "pedestrian.standing"),
        ("cycle", True, "cycle.with_rider"),
        ("cycle", False, "cycle.with_rider"),
        ("cycle", True, "cycle.without_rider"),
        ("cycle", False, "cycle.without_rider"),
        ("", True, ""),
        ("", False, ""),
    }


def test_every_class_and_light_turns_up() -> None:
    worlds = [scene(*chosen) for chosen in SCENES]
    assert {o.cls.name for w in worlds for o in w.objects} == {c.name for c in CLASSES}
    assert len({w.lighting for w in worlds}) == len(worlds)


def test_a_world_depends_on_seed_and_number_alone() -> None:
    first, again = scene(3, 1), layout.build_world(3, 1)
    assert first.objects == again.objects
    assert first.scenery == again.scenery
    assert first.objects != scene(11, 7).objects
    assert first.objects != scene(3, 2).objects


def test_a_seed_without_a_layout_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_draw", lambda rng: None)
    with pytest.raises(RuntimeError, match=r"build_world: seed must give 20 to 40 .* got no"):
        layout.build_world(0, 0)
