"""What evaluate_nuscenes accepts, writes, refuses and leaves alone."""

import json
import math
from pathlib import Path

import pytest
import torch

from anybev.datasets.sample import Detections
from anybev.datasets.synthetic.nuscenes import MARKER
from anybev.evaluation.nuscenes import SYNTHETIC_NOTE, is_synthetic
from anybev.testing.nuscenes_tables import CLASSES, perfect_detections, write_nuscenes_tables

NOTHING = Detections(torch.zeros(0, 9), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


@pytest.fixture(scope="module")
def perfect(tiny_set):
    return perfect_detections(tiny_set[1])


def test_an_empty_answer_scores_zero(score, perfect):
    metrics = score(dict.fromkeys(perfect, NOTHING))
    assert metrics.nds == metrics.mean_ap == 0.0
    assert set(metrics.tp_errors.values()) == {1.0}
    assert math.isnan(metrics.per_class_tp["barrier"]["AVE"])


def test_frames_without_boxes_are_fine(score, perfect):
    first = next(iter(perfect))
    assert 0 < score({**perfect, first: NOTHING}).mean_ap < 1


def test_fewer_classes_keep_their_ap(score, perfect):
    cars = {}
    for token, frame in perfect.items():
        kept = frame.labels == 0
        cars[token] = Detections(frame.boxes_lidar[kept], frame.scores[kept], frame.labels[kept])
    metrics = score(cars, classes=("car",))
    assert metrics.per_class_ap["car"] == pytest.approx(1.0)
    assert metrics.mean_ap == pytest.approx(0.1)


def test_files_are_left_and_standard_output_is_not_touched(score, perfect, tmp_path, capfd):
    metrics = score(perfect)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    summary = json.loads((tmp_path / "out" / "metrics_summary.json").read_text())
    assert summary == json.loads(json.dumps(metrics.to_dict()))
    assert summary["per_class_tp"]["traffic_cone"]["AOE"] is None
    submission = json.loads((tmp_path / "out" / "results_nusc.json").read_text())
    assert set(submission["results"]) == set(perfect)
    assert submission["meta"]["use_lidar"] is True
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics_summary.json",
        "pr_curves.json",
        "results_nusc.json",
        "source.json",
    ]


def test_a_submission_names_the_sensors(score, perfect, tmp_path):
    score(perfect, modality={"use_lidar": False, "use_camera": True})
    meta = json.loads((tmp_path / "out" / "results_nusc.json").read_text())["meta"]
    assert [name for name, used in meta.items() if used] == ["use_camera"]
    assert len(meta) == 5
    for wrong in ({"use_sonar": True}, {"use_camera": 1}):
        with pytest.raises(ValueError, match="modality must hold True or False for some of use_c"):
            score(perfect, modality=wrong)


def test_ap_is_the_area_under_the_curves_that_are_left(score, perfect, tmp_path):
    halved = {
        token: Detections(f.boxes_lidar[::2], f.scores[::2], f.labels[::2])
        for token, f in perfect.items()
    }
    metrics = score(halved)
    curves = json.loads((tmp_path / "out" / "pr_curves.json").read_text())
    assert curves["recall"] == pytest.approx([i / 100 for i in range(101)])
    assert set(curves["precision"]) == set(CLASSES)
    for name, by_distance in metrics.per_class_ap_by_threshold.items():
        for distance, ap in by_distance.items():
            precision = curves["precision"][name][str(distance)]
            # Above recall 0.1, the part above precision 0.1.
            area = sum(max(p - 0.1, 0) for p in precision[11:]) / len(precision[11:]) / 0.9
            assert area == pytest.approx(ap, abs=1e-5)


def test_a_report_can_find_the_frames_again(score, perfect, tiny_set, tmp_path):
    score(perfect, ann_file="infos_val.pkl", loading={"load_dim": 4})
    source = json.loads((tmp_path / "out" / "source.json").read_text())
    assert source["data_root"] == str(tiny_set[0])
    assert Path(source["ann_file"]).is_absolute()
    assert source["classes"] == list(CLASSES)
    assert source["class_range_m"]["car"] == 50
    assert source["loading"] == {"load_dim": 4}
    assert (source["version"], source["split"]) == ("v1.0-trainval", "val")
    score(perfect)
    assert json.loads((tmp_path / "out" / "source.json").read_text())["ann_file"] is None


def test_only_the_splits_scenes_on_disk_are_scored(score, tmp_path):
    root = tmp_path / "two"
    infos = write_nuscenes_tables(root, scenes=("scene-0001", "scene-0003"), frames=2)
    val = [info for info in infos if info["token"].startswith("scene-0003")]
    metrics = score(perfect_detections(val), infos=infos, data_root=root)
    assert metrics.num_frames == 2
    assert metrics.mean_ap == pytest.approx(1.0)
    train = [info for info in infos if info["token"].startswith("scene-0001")]
    assert score(perfect_detections(train), infos=infos, data_root=root, split="train").nds > 0.99


def test_scenes_that_are_not_on_disk_are_left_out(score, tmp_path, caplog):
    root = tmp_path / "part"
    infos = write_nuscenes_tables(root, scenes=("scene-0003", "scene-0012"), frames=2)
    here = [info for info in infos if info["token"].startswith("scene-0012")]
    metrics = score(perfect_detections(here), infos=here, data_root=root)
    assert metrics.num_frames == 2
    assert metrics.nds > 0.99
    assert "1 scenes of 'val' are not on disk and not scored" in caplog.text

    (root / "samples" / "LIDAR_TOP").mkdir(parents=True)
    (root / "samples" / "LIDAR_TOP" / "scene-0003-0.bin").touch()
    with pytest.raises(ValueError, match="cover the 4 frames of 'val' exactly, got 2 missing"):
        score(perfect_detections(here), infos=here, data_root=root)


def test_objects_of_each_class_are_counted(score, perfect):
    # Two of three objects of a class have a return, in each of three frames.
    assert set(score(perfect).num_objects.values()) == {6}
    assert set(score(dict.fromkeys(perfect, NOTHING)).num_objects.values()) == {6}


def test_mini_tables_are_scored_on_mini_val(score, tmp_path):
    root = tmp_path / "mini"
    infos = write_nuscenes_tables(root, scenes=("scene-0103",), frames=2, version="v1.0-mini")
    metrics = score(
        perfect_detections(infos),
        infos=infos,
        data_root=root,
        version="v1.0-mini",
        split="mini_val",
    )
    assert metrics.mean_ap == pytest.approx(1.0)


def test_synthetic_scenes_are_called_so(score, tmp_path):
    infos = write_nuscenes_tables(tmp_path / "synth", frames=2)
    (tmp_path / "synth" / MARKER).write_text("{}")
    metrics = score(perfect_detections(infos), infos=infos, data_root=tmp_path / "synth")
    assert metrics.note == SYNTHETIC_NOTE
    assert "not comparable with nuScenes" in metrics.note


@pytest.mark.parametrize(("logfile", "expected"), [("synthetic-scene-0003", True), ("n015", False)])
def test_the_log_table_tells_synthetic_scenes_too(tmp_path, logfile, expected):
    assert is_synthetic(tmp_path, [{"logfile": logfile}]) is expected
    assert not is_synthetic(tmp_path, [{}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "validation"}, "split must be one of train, val"),
        (
            {"split": "mini_val"},
            "split must belong to the tables v1.0-trainval, got 'mini_val'; try",
        ),
        ({"split": "train"}, "split must have scenes in the data set, got none of 'train'"),
        ({"classes": ("car", "tram")}, "classes must be among car, .*got tram"),
        ({"classes": ()}, "classes must be among car, .*got none"),
        ({"eval_config": "cvpr"}, "eval_config must be one of detection_cvpr_2019, got 'cvpr'"),
        ({"infos": []}, r"infos must hold the 3 frames of 'val', got 3 missing \(first"),
    ],
)
def test_bad_arguments_are_named(score, perfect, changes, message):
    with pytest.raises(ValueError, match=message):
        score(perfect, **changes)


def test_missing_and_unknown_frames_are_named(score, perfect):
    first = next(iter(perfect))
    short = {token: frame for token, frame in perfect.items() if token != first}
    with pytest.raises(ValueError, match=rf"cover the 3 frames.*1 missing \(first {first}\)"):
        score(short)
    with pytest.raises(ValueError, match=r"1 that it does not have \(first stranger\)"):
        score({**perfect, "stranger": NOTHING})


def test_missing_tables_are_named(score, perfect, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_root must hold the tables v1.0-trainval/"):
        score(perfect, data_root=tmp_path)


def test_a_split_without_objects_is_named(score, tmp_path):
    infos = write_nuscenes_tables(tmp_path / "bare", frames=2)
    (tmp_path / "bare" / "v1.0-trainval" / "sample_annotation.json").write_text("[]")
    nothing = dict.fromkeys((info["token"] for info in infos), NOTHING)
    with pytest.raises(ValueError, match="split must have annotated objects, got none in the 2"):
        score(nothing, infos=infos, data_root=tmp_path / "bare")


def test_all_ten_classes_are_scored(score, perfect):
    assert set(score(perfect).per_class_ap_by_threshold["car"]) == {0.5, 1.0, 2.0, 4.0}
    assert sorted(score(perfect).per_class_tp) == sorted(CLASSES)
