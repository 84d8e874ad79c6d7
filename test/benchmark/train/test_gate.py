"""The regression gate: one short training, judged by the checked-in baseline."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anybev.benchmark.train import baseline as gate
from anybev.engine.config import load
from anybev.reporting.baseline import read_baseline
from anybev.reporting.config_identity import config_entries


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


@pytest.mark.parametrize("flags", [["--make", "1"], ["--make", "1", "1"], ["--keep"]])
def test_flags_that_make_no_sense_are_refused(flags: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        gate.parse(flags)
    assert ended.value.code == 2
    assert "must" in capsys.readouterr().err
