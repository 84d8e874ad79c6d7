"""Calibration files of users: every form gives the same camera; what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from anybev.datasets.infos import write_pickle
from anybev.datasets.user_calibration import EXAMPLE, load_calibration

K = [[700.0, 0.0, 600.0], [0.0, 710.0, 180.0], [0.0, 0.0, 1.0]]
POSE = [[1.0, 0, 0, 0.1], [0, 0, -1.0, -0.3], [0, 1.0, 0, -0.7], [0, 0, 0, 1.0]]


def _json(folder: Path, content: Any) -> Path:
    path = folder / "calib.json"
    path.write_text(json.dumps(content))
    return path


def _one(folder: Path, **camera: Any) -> Path:
    return _json(folder, {"cameras": {"front": {"cam2img": K, "lidar2cam": POSE, **camera}}})


def test_the_example_is_sound(tmp_path) -> None:
    (tmp_path / "calib.yaml").write_text(EXAMPLE)
    calibration = load_calibration(tmp_path / "calib.yaml")
    (camera,) = calibration.cameras
    assert (camera.channel, camera.image, camera.size) == ("CAM_FRONT", "front.jpg", (1600, 900))
    assert calibration.axes == "rfu"
    assert all(len(line) <= 100 for line in EXAMPLE.splitlines())
    _json(tmp_path, yaml.safe_load(EXAMPLE))
    np.testing.assert_array_equal(
        load_calibration(tmp_path / "calib.json").cameras[0].lidar2cam, camera.lidar2cam
    )


def test_every_form_of_a_pose_gives_the_same_camera(tmp_path) -> None:
    expected = load_calibration(_one(tmp_path)).cameras[0]
    inverse = np.linalg.inv(POSE).tolist()
    for pose in ({"lidar2cam": POSE[:3]}, {"extrinsic": POSE}, {"cam2lidar": inverse}):
        path = _json(tmp_path, {"cameras": {"front": {"cam2img": K, **pose}}})
        found = load_calibration(path).cameras[0]
        np.testing.assert_allclose(found.lidar2cam, expected.lidar2cam, atol=1e-12)
        np.testing.assert_array_equal(found.cam2img, expected.cam2img)


def test_a_stereo_offset_moves_into_the_pose(tmp_path) -> None:
    wide = [[*row, offset] for row, offset in zip(K, (45.0, -0.3, 0.005), strict=True)]
    plain, moved = (
        load_calibration(_one(tmp_path, cam2img=k)).cameras[0] for k in (K, [*wide, [0, 0, 0, 1]])
    )
    np.testing.assert_array_equal(moved.cam2img, plain.cam2img)
    full = np.eye(4)
    full[:3] = wide
    np.testing.assert_allclose(moved.cam2img @ moved.lidar2cam, full @ POSE, atol=1e-9)


def test_kitti_calibration_projects_as_kitti_says(test_data) -> None:
    path = test_data / "data" / "kitti_mini" / "training" / "calib" / "000000.txt"
    calibration = load_calibration(path)
    (camera,) = calibration.cameras
    assert (camera.channel, calibration.axes) == ("image_2", "flu")
    rows = dict(line.split(":") for line in path.read_text().splitlines() if line)
    p2 = np.array(rows["P2"].split(), float).reshape(3, 4)
    rect, velo = np.eye(4), np.eye(4)
    rect[:3, :3] = np.array(rows["R0_rect"].split(), float).reshape(3, 3)
    velo[:3] = np.array(rows["Tr_velo_to_cam"].split(), float).reshape(3, 4)
    point = np.array([12.0, 3.0, -1.0, 1.0])
    np.testing.assert_allclose(
        (camera.cam2img @ camera.lidar2cam @ point)[:3], p2 @ rect @ velo @ point, rtol=1e-9
    )
    # x forward becomes y forward, y left becomes minus x.
    np.testing.assert_allclose(calibration.lidar2model @ point, [-3.0, 12.0, -1.0, 1.0])


def test_the_real_info_file(test_data) -> None:
    path = next((test_data / "data" / "nuscenes_frame").glob("*.pkl"))
    calibration = load_calibration(path)
    assert len(calibration.cameras) == 6
    assert calibration.cameras[0].image.endswith("__CAM_FRONT__1532402927612460.jpg")
    assert len(calibration.instances) == 69
    with pytest.raises(ValueError, match=r"index must be in 0\.\.0 of .*, got 3"):
        load_calibration(path, index=3)


def _infos(folder: Path, frames: int = 2) -> Path:
    camera = {"cam2img": K, "lidar2cam": POSE, "img_path": "../../x.jpg"}
    data = [
        {"token": f"t{i}", "images": {"A": camera}, "lidar_points": {"lidar_path": f"a/{i}.bin"}}
        for i in range(frames)
    ]
    metainfo = {"info_version": "1.1", "dataset": "nuscenes", "categories": {"car": 0}}
    write_pickle(folder / "infos.pkl", {"metainfo": metainfo, "data_list": data})
    return folder / "infos.pkl"


def test_the_frame_of_an_info_file_is_found_by_its_sweep(tmp_path) -> None:
    path = _infos(tmp_path)
    found = load_calibration(path, points_file=Path("elsewhere/1.bin"))
    assert (found.token, found.cameras[0].image) == ("t1", "x.jpg")
    assert load_calibration(path, index=0).token == "t0"
    with pytest.raises(ValueError, match="holds 2 frames, so index must say which"):
        load_calibration(path, points_file=Path("9.bin"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a mapping, got list"),
        ({}, "cameras must map names to cameras, got NoneType; try anybev infer --calib-example"),
        ({"cameras": {}, "axis": "flu"}, "keys of top must be among axes, .* got axis"),
        ({"cameras": {}, "axes": "xyz"}, "axes must be one of rfu, flu, got 'xyz'"),
        ({"cameras": {}, "axes": ["flu"]}, "axes must be one of rfu, flu, got"),
        ({"cameras": {}, "axes": "flu", "lidar2model": POSE}, "axes or lidar2model, got both"),
        ({"cameras": {"a": 3}}, "camera a must be a mapping, got int"),
        ({"cameras": {"a": {"k": K}}}, "keys of camera a must be among image, .* got k"),
        ({"cameras": {"a": {"cam2img": K}}}, "must have cam2img and one of lidar2cam"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_calibration(_json(tmp_path, content))


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ({"cam2img": [[1, 2], [3, 4]]}, "cam2img of front must be 3 x 3 or 3 x 4 or 4 x 4 finite"),
        ({"cam2img": [[10**400, 0, 0], *K[1:]]}, "cam2img of front must be 3 x 3"),
        ({"cam2img": "K"}, "cam2img of front must be 3 x 3"),
        ({"cam2img": np.zeros((3, 3)).tolist()}, "positive focal lengths and an inverse"),
        ({"cam2img": [K[0], K[0], K[2]]}, r"cam2img of front must have positive focal lengths"),
        ({"cam2img": [*K[:2], [0, 0, 2.0]]}, "third row of cam2img of front must be 0, 0, 1"),
        ({"lidar2cam": np.zeros((4, 4)).tolist()}, r"must be a rotation .* \(singular"),
        ({"lidar2cam": np.diag([-1.0, 1, 1, 1]).tolist()}, r"must be a rotation .*determinant -1"),
        ({"lidar2cam": np.diag([2.0, 2, 2, 1]).tolist()}, r"must be a rotation .*determinant 8"),
        ({"lidar2cam": [[float("nan")] * 4] * 4}, "lidar2cam of front must be 3 x 4 or 4 x 4"),
        ({"image": 7}, "image of front must be text, got 7"),
        ({"width": 7}, "width and height of front must be positive integers, got 7 and None"),
        ({"width": -7, "height": 3}, "width and height of front must be positive integers"),
    ],
)
def test_a_wrong_camera_is_named(tmp_path, camera: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_calibration(_one(tmp_path, **camera))


def test_files_that_are_no_calibration_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        load_calibration(tmp_path / "none.json")
    for name, text, message in (
        ("a.xml", "<a/>", "must end in .json, .yaml, .yml, .pkl or .txt, got '.xml'"),
        ("a.json", "{", "must be JSON, got"),
        ("a.yaml", "a: [", "must be YAML, got"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "must be YAML, got"),
        ("a.txt", "P0: 1 2", "must be KITTI's calibration with P2, .*, got no P2"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            load_calibration(tmp_path / name)
    (tmp_path / "big.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(ValueError, match="must be at most"):
        load_calibration(tmp_path / "big.json")
    (tmp_path / "big.txt").write_bytes(b" " * (5 << 20))
    with pytest.raises(ValueError, match="must be KITTI's calibration, got"):
        load_calibration(tmp_path / "big.txt")


def test_an_info_frame_without_cameras_is_named(tmp_path) -> None:
    metainfo = {"info_version": "1.1", "dataset": "nuscenes", "categories": {"car": 0}}
    path = tmp_path / "infos.pkl"
    write_pickle(path, {"metainfo": metainfo, "data_list": [{"token": "t"}]})
    with pytest.raises(ValueError, match="frame 0 must have images, got none"):
        load_calibration(path)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"timestamp": "now"}, "timestamp must be a finite number, got 'now'"),
        ({"lidar_sweeps": 5}, "lidar_sweeps must be a list, got int"),
        ({"instances": {"a": 1}}, "instances must be a list, got dict"),
        ({"lidar_sweeps": [3]}, r"lidar_sweeps\[0\] must have lidar_points, got none"),
        ({"lidar_sweeps": [{"lidar_points": {}}]}, "lidar2sensor of sweep 0 must be 3 x 4 or"),
    ],
)
def test_damaged_sweeps_of_an_info_file_are_named(tmp_path, frame, message: str) -> None:
    metainfo = {"info_version": "1.1", "dataset": "nuscenes", "categories": {"car": 0}}
    path = tmp_path / "infos.pkl"
    write_pickle(path, {"metainfo": metainfo, "data_list": [{"images": {}, **frame}]})
    with pytest.raises(ValueError, match=message):
        load_calibration(path)
