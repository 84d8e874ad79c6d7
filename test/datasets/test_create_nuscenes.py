"""Tables -> info files -> samples, on synthetic scenes, with the devkit as the other opinion."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from pyquaternion import Quaternion

from anybev.datasets.gt_database import create_gt_database
from anybev.datasets.infos import CATEGORIES, load_infos, parse_frames
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.nuscenes_infos import CAMERAS, create_nuscenes_infos
from anybev.datasets.nuscenes_tables import NuScenesTables, rotation_matrix
from anybev.datasets.points import read_points
from anybev.datasets.safe_pickle import load_pickle
from anybev.datasets.transforms import (
    BEVFusionRandomFlip3D,
    GlobalRotScaleTrans,
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
    ObjectNameFilter,
    ObjectRangeFilter,
    ObjectSample,
    PointShuffle,
    PointsRangeFilter,
)
from anybev.device.ops.points_in_boxes import points_in_boxes

RANGE = (-54, -54, -5, 54, 54, 3)


@pytest.fixture(scope="module")
def devkit(synthetic_root):
    return NuScenes("v1.0-trainval", str(synthetic_root), verbose=False)


@pytest.fixture(scope="module")
def train_infos(synthetic_root):
    return load_infos(synthetic_root / "nuscenes_infos_train.pkl")


def test_files_hold_every_key_frame(synthetic_root, train_infos, devkit):
    val = load_infos(synthetic_root / "nuscenes_infos_val.pkl")
    tokens = [f["token"] for f in train_infos["data_list"] + val["data_list"]]
    assert sorted(tokens) == sorted(sample["token"] for sample in devkit.sample)
    assert [f["sample_idx"] for f in val["data_list"]] == list(range(len(val["data_list"])))
    assert train_infos["metainfo"] == {
        "categories": {name: i for i, name in enumerate(CATEGORIES)},
        "dataset": "nuscenes",
        "version": "v1.0-trainval",
        "info_version": "1.1",
    }


def test_annotations_agree_with_the_devkit(train_infos, devkit):
    for frame in train_infos["data_list"][::6]:
        lidar = devkit.get("sample", frame["token"])["data"]["LIDAR_TOP"]
        record = devkit.get("sample_data", lidar)
        poses = (
            devkit.get("ego_pose", record["ego_pose_token"]),
            devkit.get("calibrated_sensor", record["calibrated_sensor_token"]),
        )
        _, boxes, _ = devkit.get_sample_data(lidar)
        assert len(boxes) == len(frame["instances"])
        for box, instance in zip(boxes, frame["instances"], strict=True):
            width, length, height = box.wlh
            expected = [*box.center, length, width, height, box.orientation.yaw_pitch_roll[0]]
            np.testing.assert_allclose(instance["bbox_3d"], expected, atol=1e-9)
            velocity = np.append(devkit.box_velocity(box.token)[:2], 0.0)
            for pose in poses:
                velocity = Quaternion(pose["rotation"]).inverse.rotation_matrix @ velocity
            np.testing.assert_allclose(instance["velocity"], velocity[:2], atol=1e-9)
            name = category_to_detection_name(box.name)
            label = CATEGORIES.index(name) if name else -1
            assert instance["bbox_label"] == instance["bbox_label_3d"] == label
            annotation = devkit.get("sample_annotation", box.token)
            points = annotation["num_lidar_pts"] + annotation["num_radar_pts"]
            assert instance["bbox_3d_isvalid"] is (points > 0)


def test_cameras_and_poses_are_those_of_the_tables(train_infos, devkit):
    frame = train_infos["data_list"][3]
    assert tuple(frame["images"]) == CAMERAS
    sample = devkit.get("sample", frame["token"])
    for name, camera in frame["images"].items():
        record = devkit.get("sample_data", sample["data"][name])
        calibration = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
        assert record["filename"].endswith(camera["img_path"])
        assert camera["cam2img"] == calibration["camera_intrinsic"]
        assert camera["timestamp"] == record["timestamp"] / 1e6
    # A point a metre ahead of the front camera, by the devkit's chain of poses.
    record = devkit.get("sample_data", sample["data"]["CAM_FRONT"])
    point = np.array([0.3, -0.2, 1.0])
    for table in ("calibrated_sensor", "ego_pose"):
        pose = devkit.get(table, record[f"{table}_token"])
        point = Quaternion(pose["rotation"]).rotation_matrix @ point + pose["translation"]
    lidar2global = np.array(frame["ego2global"]) @ np.array(frame["lidar_points"]["lidar2ego"])
    in_lidar = np.linalg.inv(lidar2global) @ np.append(point, 1.0)
    lidar2cam = np.array(frame["images"]["CAM_FRONT"]["lidar2cam"])
    np.testing.assert_allclose((lidar2cam @ in_lidar)[:3], [0.3, -0.2, 1.0], atol=1e-6)


def test_sweeps_go_back_in_time_and_stop_at_the_scene(train_infos):
    frames = train_infos["data_list"]
    assert "lidar_sweeps" not in frames[0]
    for frame in frames[1:]:
        ages = [frame["timestamp"] - sweep["timestamp"] for sweep in frame["lidar_sweeps"]]
        assert len(ages) == 10
        np.testing.assert_allclose(ages, 0.05 * np.arange(1, 11), atol=0.005)
    key_frames = [s["lidar_points"]["lidar_path"] for s in frames[1]["lidar_sweeps"]]
    assert [path.split("/")[0] for path in key_frames] == ["sweeps"] * 9 + ["samples"]


def test_corrected_sweeps_put_still_things_in_place(synthetic_root, train_infos):
    """Points of all sweeps on parked objects stay within the boxes of the key frame."""
    shares = {}
    for transform in ("corrected", "reference"):
        pipeline = [
            LoadPointsFromFile(),
            LoadPointsFromMultiSweeps(10, remove_close=True, sweep_transform=transform),
            LoadAnnotations3D(),
        ]
        dataset = NuScenesDataset("nuscenes_infos_train.pkl", synthetic_root, CATEGORIES, pipeline)
        inside = total = 0
        for i in range(1, len(dataset), 6):
            sample = dataset[i]
            still = np.linalg.norm(sample.boxes_lidar[:, 7:], axis=1) < 0.05
            inside += _count_inside(sample, still, 0.0)
            total += _count_inside(sample, still, 0.5)
        shares[transform] = inside / total
    assert shares["corrected"] > 0.9
    assert shares["corrected"] >= shares["reference"]


def _count_inside(sample, chosen, margin_m):
    boxes = sample.boxes_lidar[chosen][:, :7].copy()
    boxes[:, 3:5] += margin_m
    points = torch.from_numpy(sample.points_lidar_m[:, :3].copy())
    return int(points_in_boxes(points, torch.from_numpy(boxes)).sum())


def test_the_database_holds_the_valid_objects_with_their_points(synthetic_root, train_infos):
    database = load_pickle(synthetic_root / "nuscenes_dbinfos_train.pkl")
    boxes = [entry["box3d_lidar"] for entries in database.values() for entry in entries]
    assert all(isinstance(box, np.ndarray) and box.dtype == np.float32 for box in boxes)
    path = synthetic_root / "nuscenes_infos_train.pkl"
    frames = parse_frames(train_infos, CATEGORIES, source=path)
    names = [CATEGORIES[label] for f in frames for label in f.labels if label >= 0]
    assert set(database) <= set(names)
    for name, entries in database.items():
        assert len(entries) <= names.count(name)
        for entry in entries[::7]:
            points, dropped = read_points(synthetic_root / entry["path"])
            assert (len(points), dropped) == (entry["num_points_in_gt"], 0)
            dx, dy, dz, yaw_rad = entry["box3d_lidar"][3:7]
            local = points[:, :3] @ rotation_matrix(
                [np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)]
            )
            assert (np.abs(local) <= np.array([dx / 2, dy / 2, dz]) + 1e-3).all()
            assert local[:, 2].min() >= -1e-3
            frame = frames[entry["image_idx"]]
            np.testing.assert_allclose(frame.boxes_lidar[entry["gt_idx"]], entry["box3d_lidar"])
            assert CATEGORIES[frame.labels[entry["gt_idx"]]] == entry["name"] == name
            assert entry["difficulty"] == 0
    groups = sorted(e["group_id"] for entries in database.values() for e in entries)
    assert groups == list(range(len(groups)))


def test_the_training_pipeline_runs_on_them(synthetic_root):
    classes = CATEGORIES
    database = {
        "info_path": synthetic_root / "nuscenes_dbinfos_train.pkl",
        "data_root": synthetic_root,
        "rate": 1.0,
        "prepare": {"filter_by_min_points": dict.fromkeys(classes, 5)},
        "sample_groups": dict.fromkeys(classes, 4),
        "classes": classes,
    }
    pipeline = [
        LoadPointsFromFile(),
        LoadPointsFromMultiSweeps(9, pad_empty_sweeps=True, remove_close=True),
        LoadAnnotations3D(),
        ObjectSample(database),
        GlobalRotScaleTrans((-0.785, 0.785), (0.9, 1.1), (0.5, 0.5, 0.5)),
        BEVFusionRandomFlip3D(),
        PointsRangeFilter(RANGE),
        ObjectRangeFilter(RANGE),
        ObjectNameFilter(classes),
        PointShuffle(),
    ]
    dataset = NuScenesDataset("nuscenes_infos_train.pkl", synthetic_root, classes, pipeline, seed=1)
    for i in (0, 9):
        sample, again = dataset[i], dataset[i]
        assert len(sample.boxes_lidar) > (dataset.frames[i].labels >= 0).sum() * 0.5
        np.testing.assert_array_equal(sample.points_lidar_m, again.points_lidar_m)
        assert 0 < sample.points_lidar_m[:, 4].max() < 0.56


def _small_copy(root, target):
    """The tables, and the lidar files of the training scene's first two key frames."""
    shutil.copytree(root / "v1.0-trainval", target / "v1.0-trainval")
    tables = NuScenesTables(target, "v1.0-trainval")
    for scene in tables.scenes():
        for sample in tables.samples_of(scene)[:1]:
            name = tables.key_frame_data[sample["token"]]["LIDAR_TOP"]["filename"]
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target / name)
    return tables


def test_scenes_that_are_not_on_disk_are_left_out(synthetic_root, tmp_path):
    tables = _small_copy(synthetic_root, tmp_path)
    first = tables.samples_of(tables.scenes()[0])[0]
    (tmp_path / tables.key_frame_data[first["token"]]["LIDAR_TOP"]["filename"]).unlink()
    written = create_nuscenes_infos(tmp_path, tmp_path / "out", with_gt_database=False)
    counts = [len(load_infos(path)["data_list"]) for path in written]
    assert sorted(counts) == [0, 20]
    for path in tmp_path.rglob("*.bin"):
        path.unlink()
    with pytest.raises(ValueError, match="must hold the lidar files of a scene of v1"):
        create_nuscenes_infos(tmp_path, tmp_path)


def test_other_categories_stay_out_of_the_database(synthetic_root, tmp_path):
    """mmdetection3d files them under the last class, the barrier."""
    infos = load_infos(synthetic_root / "nuscenes_infos_train.pkl")
    infos["data_list"] = infos["data_list"][:2]
    for frame in infos["data_list"]:
        for instance in frame["instances"]:
            instance["bbox_label"] = instance["bbox_label_3d"] = -1
    (tmp_path / "nuscenes_infos_train.pkl").write_bytes(pickle.dumps(infos))
    create_gt_database(synthetic_root, tmp_path, max_sweeps=1)
    assert load_pickle(tmp_path / "nuscenes_dbinfos_train.pkl") == {}
    assert list((tmp_path / "nuscenes_gt_database").iterdir()) == []


def test_workers_do_not_change_the_database(synthetic_root, tmp_path):
    infos = load_infos(synthetic_root / "nuscenes_infos_train.pkl")
    infos["data_list"] = infos["data_list"][:3]
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        out.mkdir()
        (out / "nuscenes_infos_train.pkl").write_bytes(pickle.dumps(infos))
        listing = create_gt_database(synthetic_root, out, max_sweeps=1, workers=workers)
        files = {p.name: p.read_bytes() for p in (out / "nuscenes_gt_database").iterdir()}
        found.append((repr(load_pickle(listing)), files))
    assert found[0] == found[1]
    assert found[0][1]


def test_wrong_arguments_are_named(synthetic_root, tmp_path):
    with pytest.raises(ValueError, match=r"version must be one of v1\.0-trainval, .*got 'v2'"):
        create_nuscenes_infos(synthetic_root, tmp_path, version="v2")
    with pytest.raises(ValueError, match="max_sweeps must be 0 or more, got -1"):
        create_nuscenes_infos(synthetic_root, tmp_path, max_sweeps=-1)
    with pytest.raises(FileNotFoundError, match=r"v1\.0-mini must be the folder of the tables"):
        create_nuscenes_infos(synthetic_root, tmp_path, version="v1.0-mini")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"ego_pose\.json must be an existing table"),
        ("{", r"ego_pose\.json must be JSON"),
        ("[1]", r"ego_pose\.json must be a list of records with tokens"),
        ("[]", r"ego_pose\.json must have token .* got no such record"),
    ],
)
def test_damaged_tables_are_named(synthetic_root, tmp_path, content, match):
    _small_copy(synthetic_root, tmp_path)
    table = tmp_path / "v1.0-trainval" / "ego_pose.json"
    table.unlink() if content is None else table.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        create_nuscenes_infos(tmp_path, tmp_path)


def test_a_sample_without_lidar_is_named(synthetic_root, tmp_path):
    _small_copy(synthetic_root, tmp_path)
    table = tmp_path / "v1.0-trainval" / "sample_data.json"
    rows = [r for r in json.loads(table.read_text()) if not r["is_key_frame"]]
    table.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="must have a LIDAR_TOP key frame, got none"):
        create_nuscenes_infos(tmp_path, tmp_path)


def test_rotations_agree_with_pyquaternion():
    rng = np.random.default_rng(0)
    for quaternion in rng.normal(size=(5, 4)):
        expected = Quaternion(quaternion).rotation_matrix
        np.testing.assert_allclose(rotation_matrix(quaternion), expected, atol=1e-12)
