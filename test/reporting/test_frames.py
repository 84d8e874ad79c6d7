"""Frames of a run: found again, scored, drawn to files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anybev.datasets.infos import CATEGORIES, load_infos, write_pickle
from anybev.datasets.predictions import save_predictions
from anybev.datasets.sample import Detections
from anybev.reporting.frame_scores import assess, average_precision, match
from anybev.reporting.frames import Frames, FramesError, Loading, open_frames
from anybev.reporting.pictures import write_pictures
from anybev.testing.run_folder import write_data, write_run

SCORED = "20260101_000000/nuscenes"


@pytest.fixture
def frames(run_folder: Path) -> Frames:
    return open_frames(run_folder / SCORED)


def test_a_scene_has_everything_in_the_lidar_frame(frames: Frames) -> None:
    scene, notes = frames.scene("frame1")
    assert notes == []
    assert scene.points_lidar_m.shape == (200, 5)
    assert [camera.channel for camera in scene.cameras] == ["CAM_FRONT", "CAM_BACK"]
    assert scene.true_boxes_lidar[0][:3] == pytest.approx([1, 12, -1], abs=1e-6)
    assert scene.predicted_boxes_lidar[0][:3] == pytest.approx([2, 12, -1], abs=1e-6)
    u, v, depth, _ = scene.cameras[0].lidar2img @ [1.0, 12.0, 0.0, 1.0]
    assert (u / depth, v / depth) == pytest.approx((80 + 100 / 12, 45))


def test_frames_are_found_by_token_or_index(frames: Frames) -> None:
    assert [frames.find(name) for name in ("frame2", "0", "2")] == ["frame2", "frame0", "frame2"]
    for name in ("4", "-1", "--1", "frame9", "", "9" * 5000):
        assert frames.find(name) is None


def test_files_are_read_as_the_evaluation_read_them(tmp_path: Path) -> None:
    """Folders, numbers in a row and turned pictures of the config; those of older runs."""
    run = write_run(tmp_path / "run", write_data(tmp_path / "data"))
    folder, samples = run / SCORED, tmp_path / "data" / "samples"
    np.ones((50, 4), np.float32).tofile(samples / "LIDAR_TOP" / "0.bin")
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (160, 90)).save(samples / "CAM_FRONT" / "0.jpg", exif=exif)
    (samples / "LIDAR_TOP").rename(tmp_path / "data" / "velo")
    (samples / "CAM_FRONT").rename(tmp_path / "data" / "front")
    assert len(open_frames(folder).scene("frame0")[1]) == 2
    source = json.loads((folder / "source.json").read_text())
    loading = {"data_prefix": {"pts": "velo", "CAM_FRONT": "front"}, "load_dim": 4, "upright": True}
    (folder / "source.json").write_text(json.dumps(source | {"loading": loading}))
    scene, notes = open_frames(folder).scene("frame0")
    assert notes == []
    assert scene.points_lidar_m.shape == (50, 4)
    assert [camera.image.shape for camera in scene.cameras] == [(160, 90, 3), (90, 160, 3)]
    odd = {"data_prefix": {"pts": 5}, "load_dim": "4", "upright": 1}
    for value in (odd, 5):
        (folder / "source.json").write_text(json.dumps(source | {"loading": value}))
        assert open_frames(folder).loading == Loading()


@pytest.mark.parametrize("damage", ["missing", "placeholder"])
def test_a_camera_that_is_not_whole_leaves_points_and_boxes(tmp_path: Path, damage: str) -> None:
    ann_file = write_data(tmp_path / "data")
    run = write_run(tmp_path / "run", ann_file)
    infos = load_infos(ann_file)
    images = infos["data_list"][2]["images"]
    if damage == "missing":
        del images["CAM_BACK"]
    else:
        images["CAM_BACK"] = {"img_path": None}
    write_pickle(ann_file, infos)
    frames = open_frames(run / SCORED)
    (note,) = frames.notes
    assert note.startswith("no pictures: infos: ")
    assert "CAM_BACK" in note
    scene, notes = frames.scene("frame0")
    assert (len(scene.points_lidar_m), len(scene.true_boxes_lidar)) == (200, 1)
    assert (scene.cameras, notes) == ([], [])
    assert write_pictures(run / SCORED, tmp_path / "out", limit=1)[1] == [note]


def test_runs_share_their_info_file(tmp_path: Path) -> None:
    ann_file = write_data(tmp_path / "data")
    first, second = (open_frames(write_run(tmp_path / n, ann_file) / SCORED) for n in "ab")
    assert first.infos is second.infos
    infos = load_infos(ann_file)
    infos["data_list"][0]["instances"] = []
    write_pickle(ann_file, infos)
    again = open_frames(tmp_path / "a" / SCORED)
    assert len(again.infos["frame0"].boxes_lidar) == 0


def test_a_range_that_is_no_number_limits_nothing(run_folder: Path) -> None:
    folder = run_folder / SCORED
    source = json.loads((folder / "source.json").read_text())
    ranges = {"class_range_m": {"car": "far", "pedestrian": 1.0}}
    (folder / "source.json").write_text(json.dumps(source | ranges))
    frames = open_frames(folder)
    boxes = np.array([[500.0, 0, 0], [500.0, 0, 0]])
    assert frames.in_range("frame0", boxes, np.array([0, 1])).tolist() == [True, False]


def test_missing_files_become_notes(tmp_path: Path) -> None:
    ann_file = write_data(tmp_path / "data")
    run = write_run(tmp_path / "run", ann_file)
    (tmp_path / "data" / "samples" / "CAM_BACK" / "0.jpg").unlink()
    (tmp_path / "data" / "samples" / "CAM_FRONT" / "1.jpg").write_text("no picture")
    (tmp_path / "data" / "samples" / "LIDAR_TOP" / "0.bin").unlink()
    frames = open_frames(run / SCORED)
    scene, notes = frames.scene("frame0")
    assert len(scene.points_lidar_m) == 0
    assert [camera.channel for camera in scene.cameras] == ["CAM_FRONT"]
    assert "no points: " in notes[0]
    assert "no picture: CAM_BACK" in notes[1]
    assert "must be a JPEG or PNG picture" in frames.scene("frame1")[1][0]


def test_a_data_set_that_moved_is_found_by_its_new_place(tmp_path: Path) -> None:
    ann_file = write_data(tmp_path / "old")
    run = write_run(tmp_path / "run", ann_file)
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(FramesError, match=r"the data set is not where it was: .*--data-root"):
        open_frames(run / SCORED)
    frames = open_frames(run / SCORED, tmp_path / "new")
    assert frames.scene("frame0")[1] == []


def test_frames_that_cannot_be_shown_say_why(run_folder: Path, tmp_path: Path) -> None:
    folder = run_folder / SCORED
    source = json.loads((folder / "source.json").read_text())
    (folder / "source.json").write_text(json.dumps(source | {"ann_file": None}))
    with pytest.raises(FramesError, match="did not note its info file"):
        open_frames(folder)
    (folder / "source.json").write_text(json.dumps(source | {"classes": ["tram"]}))
    with pytest.raises(FramesError, match="classes must be among the categories"):
        open_frames(folder)
    (folder / "source.json").write_text("[]")
    with pytest.raises(FramesError, match="must hold data_root, ann_file and classes"):
        open_frames(folder)
    fewer = write_data(tmp_path / "fewer", frames=2)
    (folder / "source.json").write_text(json.dumps(source | {"ann_file": str(fewer)}))
    with pytest.raises(FramesError, match=r"2 missing \(first frame2\)"):
        open_frames(folder)
    (folder / "source.json").write_text(json.dumps(source | {"classes": ["car"]}))
    with pytest.raises(FramesError, match="boxes of frame0 must be finite and of known classes"):
        open_frames(folder)
    infos = load_infos(fewer)
    infos["data_list"][1] = 5
    write_pickle(fewer, infos)
    (folder / "source.json").write_text(json.dumps(source | {"ann_file": str(fewer)}))
    with pytest.raises(FramesError, match="frame 1: lidar_points must be present"):
        open_frames(folder)
    (folder / "predictions.npz").write_text("damaged")
    (folder / "source.json").write_text(json.dumps(source))
    with pytest.raises(FramesError, match=r"predictions\.npz must be a whole"):
        open_frames(folder)
    (folder / "predictions.npz").unlink()
    with pytest.raises(FramesError, match="kept no predictions: evaluate again"):
        open_frames(folder)


def test_paths_in_an_info_file_cannot_leave_the_data_root(frames: Frames) -> None:
    for info in frames.infos.values():
        assert "/" not in info.lidar_path
        assert not any("/" in camera.path for camera in info.cameras)


def test_matching_is_the_judges() -> None:
    """The box of the highest score takes the nearest free object of its class."""
    boxes = np.array([[0.0, 0], [0.5, 0], [9, 9], [4, 0]])
    truth = np.array([[0.4, 0.0], [1.9, 0.0], [4, 0]])
    scores, labels = np.array([0.5, 0.9, 0.8, 0.7]), np.array([0, 0, 0, 1])
    found = match(boxes, scores, labels, truth, np.array([0, 0, 0]))
    assert found.tolist() == [1, 0, -1, -1]
    anyhow = match(boxes, scores, None, truth, None)
    assert anyhow.tolist() == [1, 0, -1, 2]
    assert match(boxes[:0], scores[:0], labels[:0], truth, labels[:3]).tolist() == []
    assert match(boxes, scores, labels, truth[:0], labels[:0]).tolist() == [-1] * 4


def test_average_precision_by_hand() -> None:
    scores, hits = np.array([0.2, 0.9, 0.5]), np.array([True, True, False])
    # Order 0.9 hit, 0.5 miss, 0.2 hit: precision 1 and 2/3, of four objects.
    assert average_precision(scores, hits, 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(scores[:0], hits[:0], 3) == 0.0
    assert average_precision(scores, hits, 0) is None


def test_frames_are_ranked_and_classes_confused(frames: Frames) -> None:
    result = assess(frames, 0.3)
    assert [frame.ap for frame in result.frames] == [1.0, 1.0, 0.0, 0.0]
    assert [frame.token for frame in result.best(3)] == ["frame0", "frame1", "frame2"]
    assert [frame.token for frame in result.worst(2)] == ["frame2", "frame3"]
    first, last = result.frames[0], result.frames[3]
    assert (first.found, first.missed, first.ghosts) == (1, 0, 1)
    assert (last.found, last.missed, last.ghosts) == (0, 1, 2)
    # Rows car, pedestrian, no object; columns car, pedestrian, no box.
    assert result.confusion.tolist() == [[2, 0, 2], [0, 0, 0], [2, 4, 0]]
    sure = assess(frames, 0.8)
    assert sure.confusion[2].tolist() == [2, 0, 0]
    assert sure.frames[0].ghosts == 0


def test_what_is_out_of_range_does_not_count(frames: Frames) -> None:
    near = Frames(
        frames.classes, {"car": 12.1, "pedestrian": 5}, frames.infos, frames.predictions,
        frames.data_root,
    )  # fmt: skip
    result = assess(near, 0.3)
    assert [frame.ap for frame in result.frames] == [1.0, 0.0, None, None]
    assert result.frames[0].ghosts == 0
    assert {frame.token for frame in result.worst(9)} == {"frame0", "frame1"}


def test_the_real_frame_is_found_with_its_six_cameras(test_data: Path, tmp_path: Path) -> None:
    root = test_data / "data" / "nuscenes_frame"
    ann_file = next(root.glob("*.pkl"))
    source = {"data_root": str(root), "ann_file": str(ann_file), "classes": list(CATEGORIES)}
    (tmp_path / "source.json").write_text(json.dumps(source))
    token = load_infos(ann_file)["data_list"][0]["token"]
    none = torch.zeros(0)
    nothing = Detections(torch.zeros(0, 9), none, none.long())
    save_predictions(tmp_path / "predictions.npz", {token: nothing})
    scene, notes = open_frames(tmp_path).scene(token)
    assert notes == []
    assert [camera.image.shape for camera in scene.cameras] == [(900, 1600, 3)] * 6
    assert len(scene.points_lidar_m) > 30_000
    assert len(scene.true_boxes_lidar) > 60


def test_pictures_are_spread_over_the_frames(run_folder: Path, tmp_path: Path) -> None:
    written, missing = write_pictures(run_folder / SCORED, tmp_path / "out", limit=2)
    assert missing == []
    assert [path.name for path in written] == [
        "00000_frame0_bev.png",
        "00000_frame0_cameras.jpg",
        "00002_frame2_bev.png",
        "00002_frame2_cameras.jpg",
    ]
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 300
    with pytest.raises(ValueError, match="limit must be 0 or more, got -1"):
        write_pictures(run_folder / SCORED, tmp_path / "out", limit=-1)
