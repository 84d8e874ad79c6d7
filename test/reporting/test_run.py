"""Run folders as data, whole and damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from anybev.reporting.curves import validation_figure
from anybev.reporting.run import read_run, read_runs
from anybev.reporting.summary import class_measures, facts_rows, measures, to_json
from anybev.testing.run_folder import write_run

START = "20260101_000000"


def scalars(path: Path, steps: range, *, loss: float = 1.0, tail: str = "") -> None:
    (path / "vis_data").mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"loss": loss, "step": step}) for step in steps]
    (path / "vis_data" / "scalars.json").write_text("\n".join(rows) + "\n" + tail)


def test_a_whole_run(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run.name == "run"
    assert run.notes == ()
    assert run.metrics is not None
    assert run.metrics["nds"] == 0.5
    assert run.fps == 20.0
    assert run.config_name == "tiny.py"
    assert "BEVFusion" in run.config_text
    assert [row["step"] for row in run.train_rows] == list(range(1, 11))
    assert [row["NDS"] for row in run.val_rows] == [0.25, 0.5]
    assert "not comparable with nuScenes" in run.note
    assert read_run(run_folder / START).metrics == run.metrics


def test_the_newest_evaluation_counts(run_folder: Path, ann_file: Path) -> None:
    write_run(run_folder, ann_file, nds=0.7, start="20260102_000000", facts={"commit": "new"})
    run = read_run(run_folder)
    assert run.metrics is not None
    assert run.metrics["nds"] == 0.7
    assert run.facts["commit"] == "new"


def test_a_test_after_the_training_keeps_the_times_of_both(
    run_folder: Path, ann_file: Path
) -> None:
    times = {"test": {"iteration_s": 0.2, "data_s": 0.05}}
    write_run(run_folder, ann_file, start="20260102_000000", facts={"times": times, "seed": 7})
    run = read_run(run_folder)
    assert run.facts["seed"] == 7
    assert run.facts["times"]["train"]["iteration_s"] == 0.4
    assert run.facts["times"]["test"]["data_s"] == 0.05


@pytest.mark.parametrize(
    ("starts", "wanted"),
    [
        ([range(1, 7), range(5, 11)], list(range(1, 11))),  # resumed after step 4
        ([range(1, 7), range(1, 4)], [1, 2, 3]),  # started anew
        ([range(1, 4), range(3, 6), range(5, 9)], list(range(1, 9))),
    ],
)
def test_curves_of_resumed_runs_are_joined(tmp_path: Path, starts, wanted: list[int]) -> None:
    for index, steps in enumerate(starts):
        scalars(tmp_path / f"2026010{index}_000000", steps, loss=float(index))
    run = read_run(tmp_path)
    assert [row["step"] for row in run.train_rows] == wanted
    assert run.train_rows[-1]["loss"] == len(starts) - 1


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    scalars(tmp_path / START, range(1, 4))
    run = read_run(tmp_path)
    assert run.metrics is None
    assert len(run.train_rows) == 3
    assert "no evaluation in this run" in run.notes[0]
    assert "no environment.json" in run.notes[1]


def test_an_older_evaluation_has_no_curves(run_folder: Path) -> None:
    (run_folder / START / "nuscenes" / "pr_curves.json").unlink()
    (run_folder / START / "environment.json").unlink()
    run = read_run(run_folder)
    assert run.curves is None
    assert run.fps == 20.0  # from the curves of training
    assert "no pr_curves.json" in " ".join(run.notes)


def test_frames_a_second_of_a_test_run(run_folder: Path) -> None:
    (run_folder / START / "environment.json").unlink()
    (run_folder / START / "vis_data" / "scalars.json").unlink()
    (run_folder / "test_metrics.json").write_text('{"FPS": 7.5}')
    run = read_run(run_folder)
    assert run.fps == 7.5
    assert "no training in this run: no loss curves" in run.notes


def test_half_a_line_at_the_end_is_noted(tmp_path: Path) -> None:
    scalars(tmp_path / START, range(1, 4), tail='{"loss": 0.')
    run = read_run(tmp_path)
    assert len(run.train_rows) == 3
    assert "ends in half a line" in " ".join(run.notes)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"RUN must be an existing folder, got .*gone"):
        read_run(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="RUN must be a folder, got the file"):
        read_run(tmp_path / "file")
    with pytest.raises(ValueError, match=r"RUN must hold <time>/vis_data/scalars\.json or"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nuscenes/metrics_summary.json", "{", r"metrics_summary\.json must be JSON, got"),
        ("nuscenes/metrics_summary.json", "[]", r"must hold an object, got list"),
        ("nuscenes/metrics_summary.json", '{"nds": "x"}', "nds must be a number, got 'x'"),
        ("nuscenes/metrics_summary.json", '{"nds": 1, "mean_ap": NaN}', "mean_ap must be a number"),
        (
            "nuscenes/metrics_summary.json",
            '{"nds": 1, "mean_ap": 1, "tp_errors": [1]}',
            "tp_errors must map names to numbers",
        ),
        ("nuscenes/pr_curves.json", '{"recall": [0, 1], "precision": {"car": {"1": [1]}}}', "form"),
        ("nuscenes/pr_curves.json", '{"precision": {"car": 1}}', "must hold recall and precision"),
        ("environment.json", "[1]", r"environment\.json must hold an object, got list"),
        ("vis_data/scalars.json", '{"loss"\n{"loss": 1, "step": 2}', r"scalars\.json, line 1 must"),
    ],
)
def test_a_damaged_file_is_named(run_folder: Path, name: str, content: str, message: str) -> None:
    (run_folder / START / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(run_folder)


def test_classes_must_agree(run_folder: Path) -> None:
    path = run_folder / START / "nuscenes" / "metrics_summary.json"
    content = json.loads(path.read_text())
    del content["per_class_tp"]["car"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="per_class_tp must have the classes of per_class_ap"):
        read_run(run_folder)


def test_text_in_another_encoding_is_named(run_folder: Path) -> None:
    (run_folder / START / "environment.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"environment\.json must be text in UTF-8"):
        read_run(run_folder)


def test_names_are_unique(tmp_path: Path, ann_file: Path) -> None:
    paths = [write_run(tmp_path / name / "run", ann_file) for name in ("a", "b")]
    assert [run.name for run in read_runs(paths)] == [str(path) for path in paths]
    with pytest.raises(ValueError, match="RUN must be different folders"):
        read_runs([paths[0], paths[0]])


def test_epochs_are_whole_numbers(run_folder: Path) -> None:
    rows = [{"step": epoch, "NDS": 0.1 * epoch} for epoch in (1, 2, 3)]
    figure = validation_figure([replace(read_run(run_folder), val_rows=rows)])
    assert figure is not None
    ticks = figure.axes[0].get_xticks()
    assert all(float(tick).is_integer() for tick in ticks)


def test_a_run_cut_off_at_its_start_is_not_the_cheapest(tmp_path: Path, ann_file: Path) -> None:
    cost = {"seconds": 300.0, "peak_memory_mib": 900.0, "times": {"train": {"iteration_s": 0.4}}}
    whole = write_run(tmp_path / "whole", ann_file, facts=cost)
    cut = write_run(
        tmp_path / "cut", ann_file, facts={"seconds": 0.02, "peak_memory_mib": 90.0, "times": {}}
    )
    by_key = {measure.key: measure for measure in measures(read_runs([whole, cut]))}
    assert by_key["seconds"].values == [300.0, None]
    assert by_key["peak_memory_mib"].values == [900.0, None]


def test_best_values_and_differences(tmp_path: Path, ann_file: Path) -> None:
    first = write_run(tmp_path / "first", ann_file, nds=0.5, facts={"peak_memory_mib": 300})
    second = write_run(tmp_path / "second", ann_file, nds=0.6, facts={"peak_memory_mib": 400})
    runs = read_runs([first, second])
    by_key = {measure.key: measure for measure in measures(runs)}
    nds, memory = by_key["NDS"], by_key["peak_memory_mib"]
    assert [nds.is_best(i) for i in (0, 1)] == [False, True]
    assert nds.difference(0) is None
    assert nds.difference(1) == pytest.approx(0.1)
    assert [memory.is_best(i) for i in (0, 1)] == [True, False]
    assert not any(by_key["FPS"].is_best(i) for i in (0, 1))  # the same in both
    assert "test_data_s" not in by_key
    assert [measure.key for measure in class_measures(runs)] == ["car", "pedestrian"]
    rows = dict(facts_rows(runs))
    assert rows["commit"] == ["abc123", "abc123"]
    assert rows["frames scored"] == ["4 of val", "4 of val"]
    content = to_json(runs)
    assert content["runs"][1]["measures"]["NDS"] == 0.6
    assert content["runs"][0]["per_class_ap"] == {"car": 0.25, "pedestrian": 0.25}
