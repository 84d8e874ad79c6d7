"""The regression gate: one short training, judged by the checked-in baseline."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from anybev.benchmark.train import baseline as gate
from anybev.engine.config import load
from anybev.reporting.baseline import read_baseline
from anybev.reporting.config_identity import config_entries
from anybev.reporting.regress import compare
from anybev.testing.run_folder import write_data, write_run


def test_a_short_training_is_no_worse_than_the_baseline(tmp_path: Path) -> None:
    flags = ["--data-root", tmp_path / "data", "--work-dir", tmp_path / "runs", "--no-speed"]
    process = subprocess.Popen(
        [sys.executable, "-m", "anybev.benchmark.train.baseline", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=1800)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the training and its data worker
    assert process.returncode == 0, printed
    assert "no regression" in printed


def test_stored_run_of_the_judged_seed_is_no_worse_than_the_others() -> None:
    baseline = read_baseline(gate.BASELINE)
    (stored,) = [run for run in baseline.runs if run.seed == gate.JUDGED_SEED]
    kept = {"entries": baseline.entries, "frames": baseline.frames, "steps": baseline.steps}
    found = compare([replace(stored, **kept)], baseline)
    assert found.failed == []
    assert {row.spread.n for row in found.rows if row.tolerance} == {len(baseline.runs) - 1}


def test_baseline_is_of_the_config_that_is_run() -> None:
    baseline = read_baseline(gate.BASELINE)
    assert len(baseline.runs) >= 5
    entries = {key: value for key, value in baseline.entries.items() if key.startswith("model.")}
    ours = config_entries(load(gate.CONFIG).pretty_text)
    assert entries == {key: value for key, value in ours.items() if key.startswith("model.")}


def test_a_failed_training_names_its_output(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gate, "_TRAIN", "import sys; sys.exit(3)")
    with pytest.raises(RuntimeError, match=r"gate: the training must succeed, got 3; see .*out"):
        gate.train(tmp_path / "data", tmp_path / "run", seed=0)


@pytest.mark.parametrize(("commit", "said"), [("unknown", True), ("abc123", False)])
def test_a_new_baseline_without_a_commit_is_said(
    tmp_path: Path, monkeypatch, capsys, commit: str, said: bool
) -> None:
    data = write_data(tmp_path / "data")

    def train(root: Path, work_dir: Path, seed: int) -> None:
        write_run(work_dir, data, facts={"seed": seed, "commit": commit})

    monkeypatch.setattr(gate, "write_scene", lambda root: None)
    monkeypatch.setattr(gate, "train", train)
    made = tmp_path / "gate.json"
    flags = ["--work-dir", str(tmp_path / "runs"), "--baseline", str(made), "--make", "0", "1"]
    assert gate.main(flags) == 0
    assert {run.commit for run in read_baseline(made).runs} == {commit}
    assert ("does not say which commit it is of" in capsys.readouterr().err) == said


@pytest.mark.parametrize("flags", [["--make", "1"], ["--make", "1", "1"], ["--keep"]])
def test_flags_that_make_no_sense_are_refused(flags: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        gate.parse(flags)
    assert ended.value.code == 2
    assert "must" in capsys.readouterr().err
