"""Curves as JSON lines."""

import pytest
import torch

from anybev.reporting.scalars import ScalarLog, curve, load_scalars


def test_lines_come_back(tmp_path):
    log = ScalarLog(tmp_path / "run" / "scalars.json")
    log.write(1, {"loss": torch.tensor(2.5), "lr": 1e-4})
    log.write(2, {"loss": float("nan")})
    rows = load_scalars(tmp_path / "run" / "scalars.json")
    assert rows == [{"step": 1, "loss": 2.5, "lr": 1e-4}, {"step": 2, "loss": None}]
    assert curve(rows, "loss") == ([1], [2.5])


def test_a_new_log_appends(tmp_path):
    ScalarLog(tmp_path / "s.json").write(1, {"loss": 1.0})
    ScalarLog(tmp_path / "s.json").write(2, {"loss": 0.5})
    assert [row["step"] for row in load_scalars(tmp_path / "s.json")] == [1, 2]


def test_a_resumed_run_drops_later_steps(tmp_path):
    log = ScalarLog(tmp_path / "s.json")
    for step in range(1, 6):
        log.write(step, {"loss": 1.0})
    ScalarLog(tmp_path / "s.json", resume_step=3).write(4, {"loss": 2.0})
    assert curve(load_scalars(tmp_path / "s.json"), "loss") == ([1, 2, 3, 4], [1, 1, 1, 2])


def test_a_line_that_a_killed_run_left_is_dropped(tmp_path):
    log = ScalarLog(tmp_path / "s.json")
    log.write(1, {"loss": 1.0})
    with (tmp_path / "s.json").open("a") as stream:
        stream.write('{"step": 2, "lo')
    assert len(load_scalars(tmp_path / "s.json")) == 1
    ScalarLog(tmp_path / "s.json").write(2, {"loss": 3.0})
    assert [row["step"] for row in load_scalars(tmp_path / "s.json")] == [1, 2]


@pytest.mark.parametrize("line", ["nonsense\n", "[1]\n", '{"loss": 1}\n'])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "s.json").write_text('{"step": 1}\n' + line)
    with pytest.raises(ValueError, match=r"line 2 of .*s\.json must be a JSON object with a step"):
        load_scalars(tmp_path / "s.json")


def test_bad_values_are_refused(tmp_path):
    log = ScalarLog(tmp_path / "s.json")
    with pytest.raises(ValueError, match="values must have no 'step' of their own"):
        log.write(1, {"step": 2})
    with pytest.raises(TypeError, match="must be numbers, text"):
        log.write(1, {"loss": object()})
