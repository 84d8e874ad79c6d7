import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.loaders import load_gt
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import BoxVisibility, points_in_box
from nuscenes.utils.splits import create_splits_scenes

from anybev.datasets.synthetic.layout import build_world
from anybev.datasets.synthetic.nuscenes import MARKER, write_nuscenes
from anybev.datasets.synthetic.rig import CAMERAS
from anybev.datasets.synthetic.world import key_frame_times, near_ego

SEED = 5
ARGUMENTS = {"scenes": 1, "val_scenes": 1, "seed": SEED, "camera_scale": 0.1}
Row = dict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "nuscenes"
    calls: list[tuple[int, int]] = []
    write_nuscenes(out, **ARGUMENTS, workers=2, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    return out


@pytest.fixture(scope="module")
def data(folder: Path) -> NuScenes:
    return NuScenes("v1.0-trainval", str(folder), verbose=False)


def digest(out: Path) -> dict[str, str]:
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_official_splits_find_the_scenes(data: NuScenes) -> None:
    splits = create_splits_scenes()
    assert [s["name"] in splits["train"] for s in data.scene] == [True, False]
    assert [s["name"] in splits["val"] for s in data.scene] == [False, True]
    truth = load_gt(data, "val", DetectionBox)
    assert len(truth.sample_tokens) == 20
    assert all(20 <= len(truth[t]) <= 60 for t in truth.sample_tokens)


def test_chains_and_files(data: NuScenes, folder: Path) -> None:
    for scene in data.scene:
        sample = data.get("sample", scene["first_sample_token"])
        stamps, record = [], data.get("sample_data", sample["data"]["LIDAR_TOP"])
        while True:
            stamps.append(record["timestamp"])
            assert (folder / record["filename"]).stat().st_size % 20 == 0
            assert record["is_key_frame"] == ((len(stamps) - 1) % 10 == 0)
            assert record["filename"].startswith(
                "samples/" if record["is_key_frame"] else "sweeps/"
            )
            if not record["next"]:
                break
            following = data.get("sample_data", record["next"])
            assert following["prev"] == record["token"]
            record = following
        assert len(stamps) == 191
        assert set(np.diff(stamps)) == {50_000}
        assert record["sample_token"] == scene["last_sample_token"]
        count = 1
        while sample["next"]:
            sample = data.get("sample", sample["next"])
            count += 1
        assert count == scene["nbr_samples"] == 20
    files = {str(p.relative_to(folder)) for p in folder.rglob("*.bin")}
    lidar = {d["filename"] for d in data.sample_data if d["channel"] == "LIDAR_TOP"}
    assert files == lidar
    pictures = [d["filename"] for d in data.sample_data if d["channel"] != "LIDAR_TOP"]
    assert len(pictures) == len(set(pictures)) == 40 * 6
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.jpg")} == set(pictures)
    assert not (folder / ".parts").exists()


def test_instances_link_their_annotations(data: NuScenes) -> None:
    linked = 0
    for instance in data.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            record = data.get("sample_annotation", token)
            assert record["instance_token"] == instance["token"]
            count, last, token = count + 1, token, record["next"]
        assert last == instance["last_annotation_token"]
        assert count == instance["nbr_annotations"]
        linked += count
    assert linked == len(data.sample_annotation)


def test_annotations_are_the_worlds(data: NuScenes) -> None:
    attributes = {a["token"]: a["name"] for a in data.attribute}
    for scene in data.scene:
        world = build_world(SEED, int(scene["name"][-4:]))
        times = key_frame_times()
        poses, speeds = world.object_poses(times), world.object_speeds(times)
        present = near_ego(world, 70.0)
        sample = data.get("sample", scene["first_sample_token"])
        for k in range(20):
            assert len(sample["anns"]) == present[:, k].sum()
            for ann, i in zip(sample["anns"], np.flatnonzero(present[:, k]), strict=True):
                record = data.get("sample_annotation", ann)
                item = world.objects[i]
                np.testing.assert_allclose(record["translation"][:2], poses[i, k, :2])
                assert record["size"] == list(item.size_wlh_m)
                names = [attributes[t] for t in record["attribute_tokens"]]
                assert names == [a for a in [item.attribute(speeds[i, k])] if a]
                if 0 < k < 19 and present[i, k - 1 : k + 2].all():
                    yaw = poses[i, k, 2]
                    velocity = speeds[i, k] * np.array([np.cos(yaw), np.sin(yaw)])
                    found = data.box_velocity(ann)[:2]
                    # The devkit's is a mean over one second of a bend.
                    assert np.hypot(*(found - velocity)) < 0.02 + 0.03 * speeds[i, k]
            sample = data.get("sample", sample["next"]) if sample["next"] else sample


def test_points_lie_in_their_boxes(data: NuScenes) -> None:
    total = inside = 0
    for sample in data.sample[::4]:
        path, boxes, _ = data.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            count = data.get("sample_annotation", box.token)["num_lidar_pts"]
            mask = points_in_box(box, points)
            # Ground points within a wave's height of the box's bottom are not the object's.
            floor = box.center[2] - box.wlh[2] / 2 + 0.07
            found = int((mask & (points[2] > floor)).sum())
            assert found <= 1.02 * count + 3, box.name
            total, inside = total + count, inside + min(found, count)
    assert total > 5000
    assert inside >= 0.95 * total


def test_visibility_is_the_share_of_rays(data: NuScenes) -> None:
    levels = {int(a["visibility_token"]) for a in data.sample_annotation}
    assert levels == {1, 2, 3, 4}
    assert [v["level"] for v in data.visibility] == ["v0-40", "v40-60", "v60-80", "v80-100"]


def test_boxes_project_into_the_cameras(data: NuScenes) -> None:
    for sample in data.sample[::7]:
        seen = set()
        for camera in CAMERAS:
            _, boxes, intrinsic = data.get_sample_data(
                sample["data"][camera.channel], box_vis_level=BoxVisibility.ANY
            )
            assert intrinsic.shape == (3, 3)
            for box in boxes:
                seen.add(box.token)
        # The six fields of view close the circle beyond a few metres.
        pose = data.get(
            "ego_pose", data.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"]
        )
        for token in sample["anns"]:
            offset = np.subtract(
                data.get("sample_annotation", token)["translation"], pose["translation"]
            )
            if np.hypot(*offset[:2]) > 6:
                assert token in seen


def test_cameras_look_where_they_are_named(data: NuScenes) -> None:
    looks = {}
    for record in data.calibrated_sensor:
        w, x, y, z = record["rotation"]
        axis = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
        looks[data.get("sensor", record["sensor_token"])["channel"]] = np.array(axis)
    forward = {c: v[0] for c, v in looks.items()}
    left = {c: v[1] for c, v in looks.items()}
    assert forward["CAM_FRONT"] > 0.99
    assert forward["CAM_BACK"] < -0.99
    for channel in ("CAM_FRONT_LEFT", "CAM_BACK_LEFT"):
        assert left[channel] > 0.8
        assert left[channel.replace("LEFT", "RIGHT")] < -0.8
    assert looks["LIDAR_TOP"][2] > 0.999


def test_workers_and_interruption_leave_no_trace(folder: Path, tmp_path: Path) -> None:
    class Interrupt(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Interrupt

    out = tmp_path / "nuscenes"
    with pytest.raises(Interrupt):
        write_nuscenes(out, **ARGUMENTS, workers=1, progress=stop)
    assert not (out / "v1.0-trainval").exists()
    written = (out / ".parts" / "scene-0001.json").stat().st_mtime_ns
    write_nuscenes(out, **ARGUMENTS, workers=1)
    assert digest(out) == digest(folder)
    sweeps = [p.stat().st_mtime_ns for p in out.rglob("synthetic-scene-0001*.*")]
    assert len(sweeps) == 191 + 120
    assert max(sweeps) <= written


def test_a_finished_folder_is_left_alone(folder: Path) -> None:
    before = (folder / "v1.0-trainval" / "sample.json").stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    write_nuscenes(folder, **ARGUMENTS, progress=lambda *call: calls.append(call))
    assert calls == [(2, 2)]
    assert (folder / "v1.0-trainval" / "sample.json").stat().st_mtime_ns == before
    with pytest.raises(RuntimeError, match=r"got .* written from .*overwrite"):
        write_nuscenes(folder, **(ARGUMENTS | {"seed": SEED + 1}))


def test_overwrite_replaces_only_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anybev.datasets.synthetic import nuscenes as writer

    monkeypatch.setattr(writer, "_write_scene", fake_scene)
    arguments = {"scenes": 2, "val_scenes": 0, "workers": 1}
    write_nuscenes(tmp_path, seed=1, **arguments)
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "samples" / "LIDAR_TOP" / "old.pcd.bin").write_bytes(b"")
    write_nuscenes(tmp_path, seed=2, overwrite=True, **arguments)
    assert json.loads((tmp_path / MARKER).read_text())["seed"] == 2
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert not (tmp_path / "samples" / "LIDAR_TOP" / "old.pcd.bin").exists()


def fake_scene(out: Path, name: str, seed: int, pictures: object) -> str:
    (out / ".parts" / f"{name}.json").write_text("{}")
    return name


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RuntimeError, match="out must be new, empty or written by this command"):
        write_nuscenes(tmp_path, scenes=1, val_scenes=0, seed=0)
    with pytest.raises(RuntimeError, match="out must be a folder, got the file"):
        write_nuscenes(tmp_path / "thesis.tex", scenes=1, val_scenes=0, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scenes": 1.0}, TypeError, "scenes must be an int, got 1.0"),
        ({"seed": True}, TypeError, "seed must be an int, got True"),
        ({"scenes": -1}, ValueError, "scenes must be at least 0, got -1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"scenes": 701}, ValueError, "scenes must be at most 700"),
        ({"val_scenes": 151}, ValueError, "val_scenes must be at most 150"),
        ({"scenes": 0}, ValueError, "must be at least 1, got 0"),
    ],
)
def test_bad_arguments(tmp_path: Path, change: Row, error: type[Exception], message: str) -> None:
    arguments = {"scenes": 1, "val_scenes": 0, "seed": 0} | change
    with pytest.raises(error, match=message):
        write_nuscenes(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
