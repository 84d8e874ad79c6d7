import pickle

import numpy as np
import pytest

from anybev.datasets.gt_sampler import DataBaseSampler
from anybev.datasets.infos import InfoError
from anybev.datasets.sample import Sample, SampleKey
from anybev.datasets.transforms import ObjectSample

CLASSES = ("car", "pedestrian")


def _entry(root, name, i, box, points=6, difficulty=0):
    path = f"gt/{name}_{i}.bin"
    (root / "gt").mkdir(exist_ok=True)
    np.full((points, 5), 0.1, np.float32).tofile(root / path)
    return {
        "name": name,
        "path": path,
        "box3d_lidar": list(box),
        "num_points_in_gt": points,
        "difficulty": difficulty,
    }


def _car(x, y):
    return (x, y, -1.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0)


@pytest.fixture
def build(tmp_path):
    def make(cars, **arguments):
        database = {
            "car": [_entry(tmp_path, "car", i, *c) for i, c in enumerate(cars)],
        }
        path = tmp_path / "dbinfos.pkl"
        path.write_bytes(pickle.dumps(database))
        settings = {
            "info_path": path,
            "data_root": tmp_path,
            "rate": 1.0,
            "prepare": {},
            "sample_groups": {"car": 2},
            "classes": CLASSES,
            **arguments,
        }
        return DataBaseSampler(**settings)

    return make


def _scene(*boxes, labels=None, points=(), epoch=0):
    lidar = np.zeros((len(points), 5), np.float32)
    lidar[:, :3] = np.reshape(points, (-1, 3))
    return Sample(
        "t",
        0,
        lidar,
        np.array(boxes, np.float32).reshape(-1, 9),
        np.array(labels if labels is not None else [0] * len(boxes), np.int64),
        np.zeros(len(boxes), np.int64),
        key=SampleKey(epoch, 0),
    )


RNG = np.random.default_rng(0)


def test_missing_objects_are_put_in_with_their_points(build):
    sampler = build([(_car(10, 0),), (_car(20, 0), 9)])
    scene = _scene(_car(-10, 0), points=[(10.5, 0, -0.5), (0, 0, 0)])
    changed = ObjectSample(sampler)(scene, RNG)
    assert len(changed.boxes_lidar) == 2  # one car was there already, two are wanted
    assert changed.labels.tolist() == [0, 0]
    new = changed.boxes_lidar[1]
    count = changed.num_lidar_pts[1]
    np.testing.assert_allclose(changed.points_lidar_m[:count, :3] - new[:3], 0.1, atol=1e-5)
    kept = changed.points_lidar_m[count:, :3].tolist()
    assert [0, 0, 0] in kept
    # The scene's point inside the car at x = 10 gives way to the object's own.
    assert ([10.5, 0, -0.5] in kept) == (new[0] != 10)


def test_a_full_scene_and_an_empty_database_change_nothing(build):
    full = _scene(_car(0, 0), _car(10, 0), points=[(0, 0, 0)])
    assert len(ObjectSample(build([(_car(20, 0),)]))(full, RNG).boxes_lidar) == 2
    assert len(ObjectSample(build([]))(_scene(points=[(0, 0, 0)]), RNG).boxes_lidar) == 0


def test_overlapping_candidates_are_left_out(build):
    sampler = build([(_car(0.5, 0.5),)], sample_groups={"car": 3})
    assert len(ObjectSample(sampler)(_scene(_car(0, 0)), RNG).boxes_lidar) == 1
    sampler = build([(_car(4.01, 0),)], sample_groups={"car": 3})
    assert len(ObjectSample(sampler)(_scene(_car(0, 0)), RNG).boxes_lidar) == 2


def test_candidates_do_not_overlap_each_other(build):
    sampler = build([(_car(0.1 * i, 0),) for i in range(8)], sample_groups={"car": 8})
    changed = ObjectSample(sampler)(_scene(), RNG)
    assert len(changed.boxes_lidar) == 1


def test_ignored_objects_take_room_too(build):
    sampler = build([(_car(0.5, 0),)])
    assert len(ObjectSample(sampler)(_scene(_car(0, 0), labels=[-1]), RNG).boxes_lidar) == 1


def test_few_points_and_refused_difficulties_are_filtered(build):
    cars = [(_car(0, 0), 4), (_car(10, 0), 5), (_car(20, 0), 9, -1)]
    rules = {"filter_by_difficulty": [-1], "filter_by_min_points": {"car": 5}}
    assert len(build(cars, prepare=rules).objects[0]) == 1
    assert len(build(cars).objects[0]) == 3


def test_the_rate_scales_what_is_missing(build):
    sampler = build([(_car(10 * i, 0),) for i in range(9)], rate=0.5, sample_groups={"car": 6})
    assert list(sampler.wanted(np.array([0, 0]))) == [(0, 2)]
    assert list(sampler.wanted(np.array([0] * 6))) == []


def test_draws_depend_on_seed_epoch_and_index_alone(build):
    cars = [(_car(10 * i, 0),) for i in range(12)]
    first, second = build(cars), build(cars)
    keys = [SampleKey(e, i) for e in range(3) for i in range(5)]
    drawn = {key: [r.path for r in first.draw(0, 2, key)] for key in keys}
    for key in reversed(keys):
        assert [r.path for r in second.draw(0, 2, key)] == drawn[key]
    assert any([r.path for r in first.draw(0, 2, key, seed=1)] != drawn[key] for key in keys)
    assert [r.path for r in first.draw(0, 2, keys[0])] == drawn[keys[0]]
    assert drawn[SampleKey(0, 0)] != drawn[SampleKey(1, 0)]


def test_an_epoch_goes_through_all_objects(build):
    sampler = build([(_car(10 * i, 0),) for i in range(12)])
    for epoch in range(2):
        seen = [r.path for i in range(6) for r in sampler.draw(0, 2, SampleKey(epoch, i))]
        assert len(set(seen)) == 12


def test_it_stops_after_the_epoch_it_is_told(build):
    transform = ObjectSample(build([(_car(10, 0),)]), disable_after_epoch=15)
    for epoch, count in ((14, 1), (15, 0), (16, 0)):
        assert len(transform(_scene(epoch=epoch), RNG).boxes_lidar) == count


def test_a_config_dict_builds_the_database(build, tmp_path):
    build([(_car(10, 0),)])
    config = {
        "type": "DataBaseSampler",
        "info_path": str(tmp_path / "dbinfos.pkl"),
        "data_root": str(tmp_path),
        "rate": 1.0,
        "prepare": {"filter_by_difficulty": [-1]},
        "sample_groups": {"car": 2},
        "classes": CLASSES,
        "points_loader": {"type": "LoadPointsFromFile", "load_dim": 5},
    }
    assert len(ObjectSample(config)(_scene(), RNG).boxes_lidar) == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sample_groups": {"unicorn": 1}}, "sample_groups must name .* got 'unicorn'"),
        ({"prepare": {"filter_by_colour": 1}}, "prepare must hold .* got 'filter_by_colour'"),
    ],
)
def test_wrong_arguments_are_named(build, arguments, match):
    with pytest.raises(ValueError, match=match):
        build([], **arguments)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"path": "a"}, r"dbinfos\.pkl, car\[0\] must have the keys path"),
        ({"box3d_lidar": [1.0]}, r"car\[0\]: box3d_lidar must be 9 finite numbers"),
        ({"path": "/etc/passwd"}, r"car\[0\]: path must lie below the data root, got /etc/passwd"),
        ({"path": "../x"}, r"car\[0\]: path must lie below the data root"),
    ],
)
def test_damaged_databases_are_named(build, tmp_path, entry, match):
    good = {"path": "a", "box3d_lidar": [1.0] * 9, "num_points_in_gt": 5, "difficulty": 0}
    bad = entry if entry == {"path": "a"} else {**good, **entry}
    sampler = build([])
    (tmp_path / "dbinfos.pkl").write_bytes(pickle.dumps({"car": [bad]}))
    with pytest.raises(InfoError, match=match):
        DataBaseSampler(tmp_path / "dbinfos.pkl", tmp_path, 1.0, {}, {"car": 2}, CLASSES)
    (tmp_path / "dbinfos.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(InfoError, match=r"dbinfos\.pkl must hold a dict, got list"):
        DataBaseSampler(tmp_path / "dbinfos.pkl", tmp_path, 1.0, {}, {"car": 2}, CLASSES)
    assert sampler.objects == {0: []}


def test_pictures_and_ground_planes_are_refused(build):
    with pytest.raises(ValueError, match="sample_2d and use_ground_plane must be False"):
        ObjectSample(build([]), sample_2d=True)
