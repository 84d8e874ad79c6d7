"""`anybev regress`: what fails, what passes, what cannot be compared."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from anybev.cli import main
from anybev.reporting.baseline import (
    MACHINE,
    Baseline,
    CannotCompareError,
    RunNumbers,
    Spread,
    loss_windows,
    new_baseline,
    read_baseline,
    write_baseline,
)
from anybev.reporting.regress import CLASSES, LOSS, SCORES, compare, group_of, tolerance
from anybev.reporting.run import Run
from anybev.testing.run_folder import write_run

HERE = dict.fromkeys(MACHINE, "here")
THERE = dict.fromkeys(MACHINE, "there")


def numbers(seed: int, **values: float) -> RunNumbers:
    known = {"NDS": 0.5, "AP/car": 0.4, "mATE": 0.3, "loss 1/5": 4.0, "FPS": 10.0}
    wobble = 1 + 0.01 * math.cos(seed)
    named = {name: value * wobble for name, value in known.items()}
    return RunNumbers(seed, "", "abc", HERE, named | values, {"model.type": "X"}, {}, 10)


@pytest.fixture
def baseline() -> Baseline:
    return new_baseline([numbers(seed) for seed in range(6)])


def changed(**values: float) -> RunNumbers:
    run = numbers(99)
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return replace(run, values={**run.values, **named})


def changed_seed(seed: int) -> RunNumbers:
    """Scores that differ much from seed to seed; the rest hardly does."""
    spread = {"NDS": 0.5 + 0.2 * math.cos(seed), "AP/car": 0.4 + 0.2 * math.sin(seed)}
    return replace(numbers(seed), values=numbers(seed).values | spread)


def verdicts(run: RunNumbers, baseline: Baseline) -> dict[str, str]:
    return {row.name: row.verdict for row in compare([run], baseline).rows}


def test_a_further_seed_passes(baseline: Baseline) -> None:
    found = compare([numbers(7)], baseline)
    assert found.failed == []
    assert {row.verdict for row in found.rows} == {"ok"}


@pytest.mark.parametrize(
    ("change", "name", "verdict"),
    [
        ({"NDS": 0.4}, "NDS", "WORSE"),
        ({"NDS": 0.6}, "NDS", "better"),
        ({"AP__car": 0.0}, "AP/car", "WORSE"),
        ({"mATE": 0.4}, "mATE", "WORSE"),
        ({"mATE": 0.2}, "mATE", "better"),
        ({"loss 1/5": 5.0}, "loss 1/5", "DIFFERENT"),
        ({"loss 1/5": 3.0}, "loss 1/5", "DIFFERENT"),
        ({"loss 1/5": math.nan}, "loss 1/5", "WORSE"),
        ({"FPS": 5.0}, "FPS", "WORSE"),
        ({"FPS": 20.0}, "FPS", "better"),
    ],
)
def test_one_changed_number_is_named(baseline: Baseline, change, name: str, verdict: str) -> None:
    found = verdicts(changed(**change), baseline)
    assert found.pop(name) == verdict
    assert set(found.values()) == {"ok"}


def test_speed_is_compared_on_the_baselines_machine_alone(baseline: Baseline) -> None:
    slow = replace(changed(FPS=1.0), machine=THERE)
    assert verdicts(slow, baseline)["FPS"] == "not compared"
    assert compare([slow], baseline).failed == []
    known = {name: value for name, value in numbers(7).values.items() if name != "FPS"}
    unmeasured = replace(numbers(7), values=known)
    (row,) = [row for row in compare([unmeasured], baseline).rows if row.name == "FPS"]
    assert (row.verdict, row.note) == ("not compared", "not measured")
    # Nothing known on either side is no agreement, and a baseline may be older than a fact.
    unknown: dict[str, object] = dict.fromkeys(MACHINE)
    nowhere = new_baseline([replace(numbers(seed), machine=unknown) for seed in range(6)])
    (row,) = [
        r for r in compare([replace(slow, machine=unknown)], nowhere).rows if r.group == "speed"
    ]
    assert (row.verdict, row.note) == ("not compared", "machine not known")
    older = {key: value for key, value in HERE.items() if key != "host"}
    aged = new_baseline([replace(numbers(seed), machine=older) for seed in range(6)])
    assert verdicts(changed(FPS=1.0), aged)["FPS"] == "not compared"
    there = [replace(numbers(seed), machine=THERE) for seed in (11, 12)]
    wider = baseline.with_runs(there)
    assert wider.spread("FPS", THERE).n == 2
    assert verdicts(changed(FPS=5.0), wider)["FPS"] == "WORSE"


def test_tolerance_is_the_interval_of_a_further_run() -> None:
    # Student's t of 4 degrees of freedom: 2.132 at 95 %, 2.776 at 97.5 %.
    spread = Spread(mean=1.0, std=0.1, n=5)
    assert tolerance(spread, 1, 0.05, SCORES) == pytest.approx(
        2.132 * 0.1 * math.sqrt(1.2), rel=1e-3
    )
    assert tolerance(spread, 1, 0.05, LOSS) == pytest.approx(2.776 * 0.1 * math.sqrt(1.2), rel=1e-3)
    assert tolerance(spread, 5, 0.05, SCORES) == pytest.approx(
        2.132 * 0.1 * math.sqrt(0.4), rel=1e-3
    )
    assert tolerance(replace(spread, std=0.0), 1, 0.05, CLASSES) == CLASSES.floor


def test_false_alarms_are_as_rare_as_stated() -> None:
    draw = np.random.default_rng(0)
    names = ["NDS", "mAP", "AP/car", "AP/bus", "loss 1/5", "loss 2/5"]

    def run(seed: int) -> RunNumbers:
        values = dict(zip(names, 1 + 0.1 * draw.standard_normal(len(names)), strict=True))
        return RunNumbers(seed, "", "", HERE, values, {}, {}, 10)

    trials = 200
    alarms = sum(
        bool(compare([run(9)], new_baseline([run(s) for s in range(5)], 0.1)).failed)
        for _ in range(trials)
    )
    assert 0.03 * trials < alarms < 0.17 * trials  # 0.1 and three of its standard errors


def test_groups() -> None:
    names = ("NDS", "mAOE", "AP/car", "loss 2/5", "layer_-1_loss_cls 5/5", "FPS")
    groups = ["scores", "errors", "classes", "loss", "loss", "speed"]
    assert [group_of(name).name for name in names] == groups


def test_a_class_that_may_fall_to_zero_is_named() -> None:
    runs = [changed(AP__bus=0.1 * seed) for seed in range(4)]
    baseline = new_baseline([replace(run, seed=seed) for seed, run in enumerate(runs)])
    assert (
        compare([changed(AP__bus=0.0)], baseline).notes[0]
        == "seeds differ too much to notice if these fell to zero: AP/bus"
    )


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (replace(numbers(7), entries={"model.type": "Y"}), r"config, got 1 .*model.type: Y, X"),
        (replace(numbers(7), frames={"split": "val"}), r"baseline's frames, .* split: val, -"),
        (replace(numbers(7), steps=5), r"training of 10 steps, got 5"),
        (replace(numbers(7), steps=None), r"got none; try --scores-only"),
        (replace(numbers(7), values={"NDS": 0.5}), r"the run must have AP/car, got none"),
    ],
)
def test_what_cannot_be_compared(baseline: Baseline, run: RunNumbers, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        compare([run], baseline)


def test_one_seed_is_no_baseline() -> None:
    for other in ([numbers(0)], [numbers(0), numbers(7)]):
        with pytest.raises(CannotCompareError, match="at least beside the run's own, got 1"):
            compare([numbers(7)], new_baseline(other))
    partly = new_baseline([numbers(0), changed(AP__bus=0.1)])
    with pytest.raises(CannotCompareError, match=r"baseline \(two seeds at least\) must have AP/b"):
        compare([replace(changed(AP__bus=0.1), seed=7)], partly)


def test_a_run_is_judged_by_other_seeds_alone(baseline: Baseline) -> None:
    odd = replace(numbers(6), values={**numbers(6).values, "NDS": 0.4})
    widened = baseline.with_runs([odd])
    assert verdicts(replace(odd, seed=99), widened)["NDS"] == "ok"
    found = compare([odd], widened)
    assert [row.name for row in found.failed] == ["NDS"]
    (row, *_) = found.rows
    assert row.spread == baseline.spread("NDS")


def test_seeds_too_few_to_notice_anything_are_no_pass() -> None:
    few = new_baseline([changed_seed(seed) for seed in range(3)])
    with pytest.raises(
        CannotCompareError,
        match=r"seeds enough to notice a score of zero, got 3 beside the run's own; try --update",
    ):
        compare([changed_seed(7)], few)
    # A regression that shows all the same is told.
    assert [row.name for row in compare([changed(mATE=9.0)], few).failed] == ["mATE"]


def test_switches_widen_what_is_compared(baseline: Baseline) -> None:
    other = replace(numbers(7), entries={"model.type": "Y"})
    found = compare([other], baseline, any_config=True)
    assert found.notes == ["another config (run, baseline): model.type: Y, X"]
    scored = replace(numbers(7), steps=None, values={"NDS": 0.5, "AP/car": 0.4, "mATE": 0.3})
    rows = compare([replace(scored, machine=THERE)], baseline, scores_only=True).rows
    assert [row.name for row in rows] == ["NDS", "AP/car", "mATE", "FPS"]
    slow = changed(FPS=0.1)
    assert [row.name for row in compare([slow], baseline).failed] == ["FPS"]
    assert compare([slow], baseline, speed=False).failed == []


def test_baseline_is_read_back(baseline: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, baseline)
    back = read_baseline(path)
    assert back.names() == baseline.names()
    assert back.spread("NDS") == baseline.spread("NDS")
    stated = json.loads(path.read_text())["numbers"]["NDS"]
    values = [run.values["NDS"] for run in baseline.runs]
    assert stated["mean"] == pytest.approx(np.mean(values))
    assert stated["std"] == pytest.approx(np.std(values, ddof=1))
    assert stated["n"] == 6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 9, "must be of format 1, got 9"),
        ("config", {"model.type": "Y"}, "config_hash must be that of config"),
        ("numbers", {}, "numbers must be those of runs, got another NDS"),
        ("false_alarm", 2.0, r"false_alarm must be in 0..1, got 2.0"),
        ("runs", 3, "must be a baseline, got"),
    ],
)
def test_an_edited_baseline_is_refused(baseline, tmp_path, key, value, message) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, baseline)
    content = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_baseline(path)


def test_runs_of_a_baseline_differ_in_their_seeds(baseline: Baseline) -> None:
    with pytest.raises(ValueError, match="different seeds, got 3 twice"):
        baseline.with_runs([numbers(3)])
    with pytest.raises(CannotCompareError, match="finite numbers, got NDS = nan"):
        baseline.with_runs([changed(NDS=math.nan)])


def test_losses_are_means_of_five_windows() -> None:
    rows = [
        {"step": s, "loss": float(s), "loss_heatmap": 1.0, "matched_ious": 0.5}
        for s in range(1, 11)
    ]
    values, steps = loss_windows(Run("run", Path(), train_rows=rows))
    assert steps == 10
    assert list(values) == [*(f"loss {i}/5" for i in range(1, 6)), "loss_heatmap 5/5"]
    assert values["loss 1/5"] == 1.5
    assert values["loss 5/5"] == 9.5
    rows[2] = {"step": 3, "loss": None}
    assert math.isnan(loss_windows(Run("run", Path(), train_rows=rows))[0]["loss 2/5"])


def regress(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["regress", *map(str, arguments)])


@pytest.fixture
def folders(ann_file: Path, tmp_path: Path) -> list[Path]:
    """Runs of five seeds."""
    return [
        write_run(tmp_path / f"seed{s}", ann_file, nds=0.5 + 0.001 * s, facts={"seed": s, **HERE})
        for s in range(5)
    ]


def test_command_makes_extends_and_compares(folders, ann_file, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    assert regress(*folders[:3], "--baseline", path, "--update").exit_code == 0
    assert regress(folders[3], "--baseline", path, "--update").exit_code == 0
    assert [run.seed for run in read_baseline(path).runs] == [0, 1, 2, 3]
    good = regress(folders[4], "--baseline", path)
    assert good.exit_code == 0, good.output
    assert "not compared" not in good.output
    assert "no regression" in good.output
    assert "not comparable with nuScenes" in " ".join(good.output.split())
    worse = write_run(tmp_path / "worse", ann_file, nds=0.3, facts={"seed": 9, **HERE})
    bad = regress(worse, "--baseline", path, "--json")
    assert bad.exit_code == 1
    content = json.loads(bad.output)
    assert content["failed"] == ["NDS", "mAP", "AP/car", "AP/pedestrian"]
    assert content["numbers"]["NDS"]["verdict"] == "WORSE"
    table = regress(worse, "--baseline", path)
    assert table.exit_code == 1
    assert "regression in NDS, mAP, AP/car, AP/pedestrian" in table.output


def test_training_speed_is_compared_too(folders, tmp_path: Path) -> None:
    for seed, folder in enumerate(folders):
        speed = 40.0 if seed == 4 else 100.0 + seed
        (folder / "metrics.json").write_text(json.dumps({"train": {"samples_per_s": speed}}))
    path = tmp_path / "baseline.json"
    assert regress(*folders[:4], "--baseline", path, "--update").exit_code == 0
    slow = regress(folders[4], "--baseline", path, "--json")
    assert json.loads(slow.output)["failed"] == ["samples/s"]


def test_command_says_what_it_cannot_compare(folders, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    absent = regress(folders[0], "--baseline", path)
    assert absent.exit_code == 2
    assert "try --update to make one" in absent.output
    assert regress(*folders[:3], "--baseline", path, "--update").exit_code == 0
    again = regress(folders[0], "--baseline", path, "--update")
    assert (again.exit_code, "got 0 twice" in again.output) == (2, True)
    (folders[4] / "tiny.py").write_text("model = dict(type='Other')\n")
    for more in ([], ["--update"]):
        other = regress(folders[4], "--baseline", path, *more)
        assert other.exit_code == 2
        assert "model.type: Other, BEVFusion" in other.output
    assert regress(folders[4], "--baseline", path, "--any-config").exit_code == 0
    assert regress(folders[4], "--baseline", path, "--update", "--fresh").exit_code == 0
    assert len(read_baseline(path).runs) == 1
    lonely = regress(folders[3], "--baseline", path, "--fresh")
    assert (lonely.exit_code, "must come with --update" in lonely.output) == (2, True)


def test_a_run_without_scores_or_config_cannot_be_compared(folders, tmp_path: Path) -> None:
    (folders[0] / "tiny.py").unlink()
    found = regress(folders[0], "--baseline", tmp_path / "b.json", "--update")
    assert (found.exit_code, "must hold the run's config" in found.output) == (2, True)
    next(folders[1].glob("*/nuscenes/metrics_summary.json")).unlink()
    found = regress(folders[1], "--baseline", tmp_path / "b.json", "--update")
    assert (found.exit_code, "must hold an evaluation" in found.output) == (2, True)
