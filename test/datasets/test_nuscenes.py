import logging
import os
import zlib

import numpy as np
import pytest
from torch.utils.data import DataLoader

from anybev.datasets.nuscenes import NuScenesDataset, SampleError
from anybev.datasets.safe_pickle import UnsafePickleError
from anybev.datasets.sample import SampleKey, collate
from anybev.datasets.transforms import (
    BEVFusionRandomFlip3D,
    GlobalRotScaleTrans,
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
    ObjectNameFilter,
    ObjectRangeFilter,
    PointShuffle,
    PointsRangeFilter,
)

RANGE = (-54, -54, -5, 54, 54, 3)
NUSCENES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)


def _augmented(tiny, **arguments):
    return tiny.dataset(
        GlobalRotScaleTrans((-0.7, 0.7), (0.9, 1.1), (0.5, 0.5, 0.5)),
        BEVFusionRandomFlip3D(),
        PointsRangeFilter(RANGE),
        ObjectRangeFilter(RANGE),
        ObjectNameFilter(tiny.classes),
        PointShuffle(),
        **arguments,
    )


def _same(a, b):
    return (
        np.array_equal(a.points_lidar_m, b.points_lidar_m)
        and np.array_equal(a.boxes_lidar, b.boxes_lidar)
        and np.array_equal(a.lidar_aug_matrix, b.lidar_aug_matrix)
        and a.token == b.token
    )


def test_a_sample_holds_points_boxes_and_poses(tiny):
    sample = tiny.dataset(ObjectNameFilter(tiny.classes))[0]
    assert sample.points_lidar_m.shape == (400 + 396, 5)
    assert sample.labels.tolist() == [0, 1]
    assert (sample.token, sample.index, sample.key) == ("token0", 0, SampleKey(0, 0))
    np.testing.assert_array_equal(sample.ego2global, tiny.frame(0)["ego2global"])
    np.testing.assert_array_equal(sample.lidar2ego, tiny.frame(0)["lidar_points"]["lidar2ego"])
    assert sample.frame is None


def test_augmentation_depends_on_seed_epoch_and_index_alone(tiny):
    first, second = _augmented(tiny, seed=3), _augmented(tiny, seed=3)
    keys = [SampleKey(epoch, i) for epoch in (0, 4) for i in range(6)]
    samples = {key: first[key] for key in keys}
    for key in reversed(keys):
        assert _same(second[key], samples[key])
    assert not _same(samples[SampleKey(0, 1)], samples[SampleKey(4, 1)])
    assert not _same(_augmented(tiny, seed=4)[1], samples[SampleKey(0, 1)])
    assert _same(first[2], samples[SampleKey(0, 2)])


def test_workers_change_nothing(tiny):
    dataset = _augmented(tiny)
    keys = [SampleKey(1, i) for i in range(6)]
    arguments = {"sampler": keys, "batch_size": 3, "collate_fn": collate}
    alone = list(DataLoader(dataset, **arguments))
    helped = list(DataLoader(dataset, num_workers=2, **arguments))
    for a, b in zip(alone, helped, strict=True):
        assert a.tokens == b.tokens
        for x, y in zip(a.points_lidar_m, b.points_lidar_m, strict=True):
            assert x.equal(y)


def test_samples_without_boxes_are_replaced_the_same_way_each_time(tiny):
    dataset = _augmented(tiny)
    drawn = [dataset[SampleKey(e, 4)] for e in range(8)]
    assert all(len(s.boxes_lidar) for s in drawn)
    assert len({s.token for s in drawn}) > 1
    assert all(_same(dataset[SampleKey(e, 4)], s) for e, s in enumerate(drawn))
    assert dataset[4].key == SampleKey(0, 4)


def test_samples_without_boxes_stay_where_asked(tiny):
    for arguments in ({"filter_empty_gt": False}, {"test_mode": True}):
        sample = tiny.dataset(**arguments)[4]
        assert (sample.token, len(sample.boxes_lidar)) == ("token4", 0)


def test_a_data_set_without_any_boxes_is_an_error(tiny):
    for frame in tiny.infos["data_list"]:
        frame["instances"] = []
    with pytest.raises(SampleError, match=r"sample 2 of .*one of 100 draws must be readable and"):
        tiny.dataset()[2]


def test_a_missing_point_file_stops_by_default(tiny):
    dataset = tiny.dataset()
    os.remove(tiny.root / "samples/LIDAR_TOP/key1.bin")
    with pytest.raises(
        SampleError, match=r"sample 1 \(token1\) of .*key1\.bin must be an existing file.*skip"
    ):
        dataset[1]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "must hold at least 1 point"),
        (b"x" * 41, "must hold whole rows of 5"),
        (np.full((9, 5), np.nan, np.float32).tobytes(), "must hold finite points .* 9 of 9"),
        (np.full((9, 5), 999, np.float32).tobytes(), "at least one point must lie inside"),
    ],
)
def test_damaged_point_files_are_named(tiny, content, match):
    dataset = _augmented(tiny, sweeps=0)
    (tiny.root / "samples/LIDAR_TOP/key1.bin").write_bytes(content)
    with pytest.raises(SampleError, match=rf"sample 1 \(token1\) of .*{match}"):
        dataset[1]


def test_a_damaged_sweep_is_named(tiny):
    dataset = tiny.dataset(sweeps=2)
    (tiny.root / "sweeps/LIDAR_TOP/sweep1_1.bin").write_bytes(b"")
    with pytest.raises(SampleError, match=r"sample 1 .*sweep1_1\.bin must hold at least 1 point"):
        dataset[1]


def test_bad_samples_are_skipped_and_counted_where_asked(tiny, caplog):
    dataset = _augmented(tiny, on_bad_sample="skip")
    (tiny.root / "samples/LIDAR_TOP/key1.bin").write_bytes(b"x")
    (tiny.root / "samples/LIDAR_TOP/key3.bin").write_bytes(b"x")
    assert dataset.bad_samples() == []
    with caplog.at_level(logging.WARNING):
        first = dataset[1]
        second = dataset[1]
    assert _same(first, second)
    assert first.token not in ("token1", "token3")
    assert caplog.text.count("sample 1 (token1)") == 1
    dataset[3]
    assert dataset.bad_samples() == ["token1", "token3"]


def test_workers_report_bad_samples_and_dropped_points(tiny):
    dataset = _augmented(tiny, on_bad_sample="skip", sweeps=0)
    (tiny.root / "samples/LIDAR_TOP/key1.bin").write_bytes(b"x")
    points = tiny.points(np.random.default_rng(0))
    points[:3, 0] = np.nan
    tiny.write("samples/LIDAR_TOP/key2.bin", points)
    for _ in DataLoader(dataset, num_workers=2, collate_fn=collate):
        pass
    assert dataset.bad_samples() == ["token1"]
    assert dataset.dropped_points() == {"token2": 3}


def test_a_bad_sample_stays_in_place_at_test_time(tiny):
    dataset = _augmented(tiny, on_bad_sample="skip", test_mode=True)
    (tiny.root / "samples/LIDAR_TOP/key1.bin").write_bytes(b"x")
    sample = dataset[1]
    assert (sample.token, sample.points_lidar_m.shape) == ("token1", (0, 5))
    assert dataset.bad_samples() == ["token1"]


def test_a_transform_must_not_drop_a_test_frame(tiny):
    def refuse(sample, rng):
        return None

    with pytest.raises(SampleError, match=r"sample 0 \(token0\) must stay at test time"):
        tiny.dataset(refuse, test_mode=True)[0]


def test_the_valid_flag_can_be_ignored(tiny):
    assert tiny.dataset(use_valid_flag=False)[0].labels.tolist() == [0, -1, -1]


def test_indices_are_checked(tiny):
    dataset = tiny.dataset()
    assert len(dataset) == 6
    for index in (6, -1):
        with pytest.raises(IndexError, match=rf"index must be in 0\.\.5, got {index}"):
            dataset[index]


def test_wrong_arguments_are_named(tiny):
    with pytest.raises(ValueError, match="on_bad_sample must be stop or skip, got 'ignore'"):
        tiny.dataset(on_bad_sample="ignore")
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        tiny.dataset(seed=-1)
    with pytest.raises(FileNotFoundError, match=r"none\.pkl must be an existing file"):
        NuScenesDataset("none.pkl", tiny.root, tiny.classes, [])
    tiny.infos["data_list"] = []
    with pytest.raises(ValueError, match="must hold frames, got none"):
        tiny.dataset()


def test_an_info_file_that_runs_code_is_refused(tiny):
    class Runs:
        def __reduce__(self):
            return os.system, ("true",)

    tiny.infos = tiny.infos | {"more": Runs()}
    with pytest.raises(UnsafePickleError, match=r"nuscenes_infos_train\.pkl is refused: .*system"):
        tiny.dataset()


def test_the_real_frame_gives_the_reference_inputs(test_data):
    root = test_data / "data" / "nuscenes_frame"
    (info,) = root.glob("*.pkl")
    pipeline = [
        LoadPointsFromFile(load_dim=5, use_dim=5),
        LoadPointsFromMultiSweeps(9, pad_empty_sweeps=True, remove_close=True),
        LoadAnnotations3D(),
        PointsRangeFilter((-54, -54, -5, 54, 54, 3)),
        ObjectRangeFilter((-54, -54, -5, 54, 54, 3)),
        ObjectNameFilter(NUSCENES),
    ]
    prefix = {"pts": "", "sweeps": ""}
    dataset = NuScenesDataset(info, root, NUSCENES, pipeline, data_prefix=prefix)
    sample = dataset[0]
    with np.load(test_data / "golden" / "pack_a.npz") as pack:
        assert zlib.crc32(sample.points_lidar_m.tobytes()) == int(pack["input/points_crc32"][0])
        np.testing.assert_array_equal(sample.boxes_lidar, pack["input/gt_boxes"])
        np.testing.assert_array_equal(sample.labels, pack["input/gt_labels"])
