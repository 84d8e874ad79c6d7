import pickle

import numpy as np
import pytest

from anybev.datasets.infos import InfoError, load_infos, parse_frames, write_pickle


def _parse(tiny, keep="valid", classes=None):
    path = tiny.save()
    return parse_frames(load_infos(path), classes or tiny.classes, source=path, keep=keep)


def test_frames_become_arrays(tiny):
    frame = _parse(tiny)[0]
    assert (frame.token, frame.sample_idx, frame.timestamp_s) == ("token0", 0, 100.0)
    assert frame.lidar_path == "samples/LIDAR_TOP/key0.bin"
    assert [s.path for s in frame.sweeps] == [f"sweeps/LIDAR_TOP/sweep0_{i}.bin" for i in (0, 1)]
    assert frame.boxes_lidar.dtype == np.float32
    np.testing.assert_allclose(
        frame.boxes_lidar[0], [10, 5, -0.85, 4.6, 1.9, 1.7, 0.3, 2, -1], rtol=1e-6
    )
    np.testing.assert_array_equal(frame.labels, [0, 1, -1, -1])
    np.testing.assert_array_equal(frame.num_lidar_pts, [40, 0, 9, 9])
    np.testing.assert_array_equal(frame.boxes_lidar[1, 7:], [0, 0])  # an unknown velocity is 0


@pytest.mark.parametrize(("keep", "count"), [("valid", 4), ("lidar", 3), ("all", 5)])
def test_boxes_are_kept_by_their_points(tiny, keep, count):
    assert len(_parse(tiny, keep)[0].labels) == count


def test_labels_follow_the_order_of_the_classes(tiny):
    frame = _parse(tiny, classes=("truck", "pedestrian", "car"))[0]
    np.testing.assert_array_equal(frame.labels, [2, 1, -1, 0])


def test_frames_without_boxes_have_empty_arrays(tiny):
    frame = _parse(tiny)[4]
    assert frame.boxes_lidar.shape == (0, 9)
    assert frame.labels.shape == frame.num_lidar_pts.shape == (0,)


def test_a_sweep_stored_among_samples_is_found_there(tiny):
    lidar = tiny.frame(0)["lidar_sweeps"][0]["lidar_points"]
    lidar["lidar_path"] = "data/samples/LIDAR_TOP/earlier.bin"
    assert _parse(tiny)[0].sweeps[0].path == "samples/LIDAR_TOP/earlier.bin"


def test_paths_cannot_leave_the_folder(tiny):
    tiny.frame(0)["lidar_points"]["lidar_path"] = "../../etc/passwd"
    assert _parse(tiny)[0].lidar_path == "samples/LIDAR_TOP/passwd"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"info_version": "1.0"}, r"metainfo\.info_version must be '1\.1', got '1\.0'; try"),
        ({"info_version": None}, r"metainfo\.info_version must be '1\.1', got None"),
        ({"dataset": "kitti"}, r"metainfo\.dataset must be 'nuscenes', got 'kitti'"),
        ({"categories": None}, r"metainfo\.categories must map names to ids"),
    ],
)
def test_other_versions_are_refused(tiny, change, match):
    tiny.infos["metainfo"].update(change)
    with pytest.raises(InfoError, match=match):
        load_infos(tiny.save())


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"infos": [], "metadata": {}}, r"a\.pkl must be of version 1\.1, got a version-1 file"),
        ([1], r"a\.pkl must hold a dict, got list"),
        ({"metainfo": {}}, r"data_list must be a list, got nothing"),
        ({"metainfo": [], "data_list": []}, r"metainfo must be a dict, got list"),
    ],
)
def test_other_files_are_refused(tmp_path, content, match):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InfoError, match=match):
        load_infos(path)


def _drop(key):
    return lambda frame: frame.pop(key)


def _put(key, value, *path):
    def change(frame):
        for step in path:
            frame = frame[step]
        frame[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_drop("token"), "token must be present, got nothing"),
        (_drop("lidar_points"), "lidar_points must be present"),
        (_put("token", 3), "token must be a str, got int"),
        (_put("timestamp", float("nan")), "timestamp must be a finite number, got nan"),
        (_put("ego2global", np.eye(3).tolist()), r"ego2global must be a finite 4 x 4 .*\(3, 3\)"),
        (_put("lidar2ego", [["a"]], "lidar_points"), r"lidar_points\.lidar2ego must be numbers"),
        (_put("instances", {}), "instances must be a list, got dict"),
        (_put("bbox_3d", [1.0], "instances", 1), r"instances\[1\]\.bbox_3d must be 7 finite"),
        (
            _put("bbox_3d", [np.inf] * 7, "instances", 1),
            r"instances\[1\]\.bbox_3d must be 7 finite",
        ),
        (
            _put("bbox_label_3d", 77, "instances", 0),
            r"instances\[0\]\.bbox_label_3d must be a category id of metainfo, got 77",
        ),
        (
            _put("timestamp", "now", "lidar_sweeps", 1),
            r"lidar_sweeps\[1\]\.timestamp must be a finite number, got 'now'",
        ),
    ],
)
def test_errors_name_file_frame_and_key(tiny, change, match):
    change(tiny.frame(2))
    with pytest.raises(InfoError, match=rf"nuscenes_infos_train\.pkl, frame 2: {match}"):
        _parse(tiny)


def test_unknown_classes_and_rules_are_refused(tiny):
    with pytest.raises(ValueError, match=r"classes must be among the categories .*got unicorn"):
        _parse(tiny, classes=("car", "unicorn"))
    with pytest.raises(ValueError, match="keep must be valid, lidar or all, got 'some'"):
        _parse(tiny, keep="some")


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.pkl"
    write_pickle(path, [1])
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        write_pickle(path, [lambda: 0])
    assert pickle.loads(path.read_bytes()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pkl"]
