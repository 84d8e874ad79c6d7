import numpy as np
import pytest

from anybev.datasets.sample import Sample
from anybev.datasets.transforms import (
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def loaded(rng, tmp_path):
    """A sample of a frame with five sweeps, each point of sweep i at x = 10 + i."""
    from anybev.datasets.infos import FrameInfo, SweepInfo

    np.full((6, 5), 3, np.float32).tofile(tmp_path / "key.bin")
    sweeps = []
    for i in range(5):
        np.full((4, 5), 10 + i, np.float32).tofile(tmp_path / f"{i}.bin")
        sweeps.append(SweepInfo(str(tmp_path / f"{i}.bin"), 9.9 - 0.1 * i, np.eye(4)))
    eye, none = np.eye(4), np.zeros((0, 9), np.float32)
    labels = np.zeros(0, np.int64)
    key = str(tmp_path / "key.bin")
    frame = FrameInfo("t", 10.0, key, tuple(sweeps), eye, eye, none, labels, labels, 0)
    return LoadPointsFromFile()(Sample("t", 0, frame=frame), rng)


def _sweep_order(sample):
    x = sample.points_lidar_m[6:, 0].reshape(-1, 4)
    return (x[:, 0] - 10).astype(int).tolist()


def test_the_ring_becomes_the_age(loaded):
    np.testing.assert_array_equal(loaded.points_lidar_m, [[3, 3, 3, 3, 0]] * 6)


def test_columns_can_be_chosen(rng, loaded):
    sample = LoadPointsFromFile(use_dim=[0, 1, 2, 3, 4])(loaded, rng)
    assert sample.points_lidar_m.shape == (6, 5)
    with pytest.raises(ValueError, match="use_dim must name 5 of the 4 columns, got 5"):
        LoadPointsFromFile(load_dim=4)
    with pytest.raises(ValueError, match=r"LoadPointsFromMultiSweeps: use_dim must name 5"):
        LoadPointsFromMultiSweeps(use_dim=4)


def test_all_sweeps_are_taken_when_there_are_no_more(rng, loaded):
    sample = LoadPointsFromMultiSweeps(9)(loaded, rng)
    assert _sweep_order(sample) == [0, 1, 2, 3, 4]
    ages = sample.points_lidar_m[6::4, 4]
    np.testing.assert_allclose(ages, [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"sweep_choice": "nearest"}, {"test_mode": True}])
def test_the_nearest_sweeps_can_be_asked_for(rng, loaded, arguments):
    assert _sweep_order(LoadPointsFromMultiSweeps(3, **arguments)(loaded, rng)) == [0, 1, 2]


def test_random_sweeps_follow_the_generator(loaded):
    drawn = set()
    key = loaded.points_lidar_m
    for seed in range(30):
        orders = []
        for _ in range(2):
            loaded.points_lidar_m = key.copy()
            sample = LoadPointsFromMultiSweeps(4)(loaded, np.random.default_rng(seed))
            orders.append(tuple(_sweep_order(sample)))
        assert orders[0] == orders[1]
        assert len(set(orders[0])) == 4
        drawn.add(frozenset(orders[0]))
    assert len(drawn) == 5


def test_no_sweeps_can_be_asked_for(rng, loaded):
    sample = LoadPointsFromMultiSweeps(0, pad_empty_sweeps=True)(loaded, rng)
    assert sample.points_lidar_m.shape == (6, 5)


def test_a_frame_without_sweeps_is_padded_with_its_own_points(rng, loaded):
    from dataclasses import replace

    loaded.frame = replace(loaded.frame, sweeps=())
    loaded.points_lidar_m[:2, :2] = 0.1
    key = loaded.points_lidar_m.copy()
    assert len(LoadPointsFromMultiSweeps(3)(loaded, rng).points_lidar_m) == 6
    loaded.points_lidar_m = key.copy()
    pad = LoadPointsFromMultiSweeps(3, pad_empty_sweeps=True, remove_close=True)
    padded = pad(loaded, rng).points_lidar_m
    np.testing.assert_array_equal(padded, np.concatenate([key, *[key[2:]] * 3]))
    loaded.points_lidar_m = key.copy()
    pad = LoadPointsFromMultiSweeps(3, pad_empty_sweeps=True)
    assert len(pad(loaded, rng).points_lidar_m) == 24


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: LoadPointsFromFile("CAMERA"), "coord_type must be LIDAR, got 'CAMERA'"),
        (lambda: LoadPointsFromFile(backend_args={}), r"backend_args must be None .*got \{\}"),
        (lambda: LoadPointsFromMultiSweeps(backend_args={}), "backend_args must be None"),
        (lambda: LoadPointsFromMultiSweeps(-1), "sweeps_num must be 0 or more, got -1"),
        (
            lambda: LoadPointsFromMultiSweeps(sweep_choice="last"),
            "sweep_choice must be random or nearest, got last",
        ),
        (
            lambda: LoadPointsFromMultiSweeps(sweep_transform="mine"),
            "sweep_transform must be reference or corrected, got mine",
        ),
        (lambda: LoadAnnotations3D(with_attr_label=True), "with_attr_label False, got True, True"),
    ],
)
def test_wrong_arguments_are_named(build, match):
    with pytest.raises(ValueError, match=match):
        build()


@pytest.mark.parametrize(
    "transform", [LoadPointsFromFile(), LoadPointsFromMultiSweeps(), LoadAnnotations3D()]
)
def test_a_sample_must_carry_its_frame(rng, transform):
    with pytest.raises(ValueError, match="sample must carry its frame, got none"):
        transform(Sample("t", 0), rng)
