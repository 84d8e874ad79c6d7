"""Each defect of an info file is found, by the check that is for it, without the tables' help."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Frame = dict[str, Any]


def _box(key: str, value: Any) -> Callable[[list[Frame]], None]:
    return lambda frames: frames[1]["instances"][0].update({key: value})


def _size(frames: list[Frame]) -> None:
    frames[1]["instances"][0]["bbox_3d"][4] = 0.0


def _large(frames: list[Frame]) -> None:
    frames[1]["instances"][0]["bbox_3d"][4] = 60.0


def _far(frames: list[Frame]) -> None:
    frames[1]["instances"][0]["bbox_3d"][0] = 4e5


def _camera(key: str, value: Any) -> Callable[[list[Frame]], None]:
    return lambda frames: frames[0]["images"]["CAM_FRONT"].update({key: value})


def _mirror(frames: list[Frame]) -> None:
    camera = frames[0]["images"]["CAM_FRONT"]
    camera["lidar2cam"] = (np.diag([-1.0, 1, 1, 1]) @ camera["lidar2cam"]).tolist()


def _invert(frames: list[Frame]) -> None:
    for frame in frames:
        for camera in frame["images"].values():
            camera["lidar2cam"] = np.linalg.inv(camera["lidar2cam"]).tolist()


def _away(frames: list[Frame]) -> None:
    camera = frames[0]["images"]["CAM_FRONT"]
    camera["lidar2cam"][2][3] -= 1000.0


def _swap(frames: list[Frame]) -> None:
    for frame in frames:
        images = frame["images"]
        front, back = images["CAM_FRONT"], images["CAM_BACK"]
        front["lidar2cam"], back["lidar2cam"] = back["lidar2cam"], front["lidar2cam"]


def _center(frames: list[Frame]) -> None:
    frames[0]["images"]["CAM_FRONT"]["cam2img"][0][2] = 3000.0


def _no_velocity(frames: list[Frame]) -> None:
    for frame in frames:
        for instance in frame["instances"]:
            instance["velocity"] = [float("nan")] * 2


def _lifted(frames: list[Frame]) -> None:
    for frame in frames:
        for instance in frame["instances"]:
            instance["bbox_3d"][2] += 30.0


def _uncounted(frames: list[Frame]) -> None:
    full = max(frames[0]["instances"], key=lambda instance: instance["num_lidar_pts"])
    full["num_lidar_pts"] = 0


def _one_empty(frames: list[Frame]) -> None:
    empty = next(i for i in frames[0]["instances"] if i["num_lidar_pts"] == 0)
    empty["num_lidar_pts"] = 50


def _sweep_after(frames: list[Frame]) -> None:
    frames[-1]["lidar_sweeps"][0]["timestamp"] = frames[-1]["timestamp"] + 0.01


def _sweeps_turned(frames: list[Frame]) -> None:
    frames[-1]["lidar_sweeps"].reverse()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_size, {"boxes.size": 1}),
        (_large, {"boxes.large": 1}),
        (_far, {"boxes.range": 1}),
        (_box("bbox_label_3d", 77), {"boxes.label": 1}),
        (_box("velocity", [float("inf"), 0.0]), {"boxes.velocity": 1}),
        (_box("velocity", [90.0, 0.0]), {"boxes.velocity": 1}),
        (_no_velocity, {"boxes.velocity": 1}),
        (_box("bbox_3d", [1.0, 2.0]), {"infos.form": 1}),
        (_uncounted, {"boxes.uncounted": 1}),
        (_one_empty, {"boxes.points": 1}),
        (lambda frames: frames[2].pop("token"), {"infos.form": 1}),
        (lambda frames: frames[2].update(lidar_points=3), {"infos.form": 1}),
        (lambda frames: frames.append(None), {"infos.form": 1}),
        (lambda frames: frames[2].update(instances=7), {"infos.form": 1}),
        (lambda frames: frames[2].update(lidar_sweeps=7), {"infos.form": 1}),
        (lambda frames: frames[2].update(timestamp=10**400), {"infos.form": 1}),
        (lambda frames: frames[2]["instances"].append([1]), {"infos.form": 1}),
        (_camera("lidar2cam", [[1e300] * 4] * 4), {"infos.form": 1}),
        (lambda frames: frames[2].update(images=[1]), {"infos.form": 1}),
        (lambda frames: frames.append(frames[0]), {"infos.tokens": 1}),
        (
            _camera("cam2img", [[0.0] * 3] * 3),
            {"calibration.intrinsics": 1, "calibration.center": 1},
        ),
        (_camera("cam2img", [[float("nan")] * 3] * 3), {"infos.form": 1}),
        (_camera("lidar2cam", np.zeros((4, 4)).tolist()), {"calibration.poses": 1}),
        (_camera("timestamp", 5.0), {"time.cameras": 1}),
        (_mirror, {"calibration.poses": 1}),
        (_away, {"calibration.projection": 1}),
        (_invert, {"calibration.direction": 20}),
        (_swap, {"calibration.direction": 8}),
        (_center, {"calibration.center": 1, "calibration.projection": 1}),
        (
            _camera("cam2img", [[400.0, 0, -1], [0, 400.0, 90], [0, 0, 1]]),
            {"calibration.center": 1},
        ),
        (_sweep_after, {"time.sweeps": 1}),
        (lambda frames: frames[0].update(timestamp=1e9), None),
    ],
)
def test_a_damaged_info_file_is_found(data, damage, expected) -> None:
    data.without_tables().edit_infos(lambda infos: damage(infos["data_list"]))
    if expected is None:
        assert set(data.findings()) == {"time.files", "time.cameras"}
    else:
        assert data.findings() == expected


def test_boxes_in_another_frame_are_found(data) -> None:
    data.without_tables().edit_infos(lambda infos: _lifted(infos["data_list"]))
    found = data.findings()
    assert set(found) == {"boxes.points", "boxes.frame"}
    assert found["boxes.frame"] == 1


def test_sweeps_in_the_wrong_order_are_found(data) -> None:
    data.without_tables().edit_infos(lambda infos: _sweeps_turned(infos["data_list"]))
    assert set(data.findings()) == {"time.sweeps"}


def test_an_info_file_that_is_none_is_found(data) -> None:
    data.without_tables()
    (data.root / "nuscenes_infos_train.pkl").write_bytes(b"no pickle")
    assert data.findings() == {"infos.file": 1}


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this runs",))


def test_a_pickle_that_names_code_is_a_finding_and_does_not_run(data, capsys) -> None:
    (data.without_tables().root / "nuscenes_infos_train.pkl").write_bytes(pickle.dumps(_Evil()))
    assert data.findings() == {"infos.file": 1}
    assert "this runs" not in capsys.readouterr().out


def test_a_frame_in_two_splits_is_found(data) -> None:
    data.without_tables().edit_infos(
        lambda infos: infos.update(data_list=infos["data_list"][:1]), "nuscenes_infos_val.pkl"
    )
    assert data.findings() == {"infos.tokens": 1}


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame.update(token="another"),
        lambda frame: frame.update(timestamp=frame["timestamp"] + 0.05),
        lambda frame: frame["instances"].pop(),
        lambda frame: frame["instances"][0]["bbox_3d"].__setitem__(0, 9.0),
        lambda frame: frame["ego2global"][0].__setitem__(3, 0.0),
        lambda frame: frame["images"]["CAM_BACK"]["cam2img"][0].__setitem__(0, 1000.0),
        lambda frame: frame["images"].update(CAM_NEW=frame["images"]["CAM_BACK"]),
    ],
)
def test_an_info_file_against_its_tables(data, damage) -> None:
    data.edit_infos(lambda infos: damage(infos["data_list"][0]))
    assert "infos.tables" in data.findings()


def test_frames_of_a_scene_out_of_order_are_found(data) -> None:
    data.edit_infos(lambda infos: infos["data_list"].reverse())
    assert data.findings() == {"time.order": 3}
