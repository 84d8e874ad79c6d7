"""A training of two processes as those who watch it see it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from anybev.reporting.job_status import job_status
from anybev.reporting.status import read_status

# mmengine's line of a training step, which people grep for.
LINE = re.compile(
    r"mmengine - INFO - Epoch\(train\) +\[[12]\]\[\d/5\]  (base_lr: \S+ )?lr: \S+  "
    r"eta: \d+:\d\d:\d\d  time: \d+\.\d{4}  data_time: \d+\.\d{4}  "
    r"(memory: \d+  )?[^/]*loss: \d+\.\d{4}[^/]*$"
)


@pytest.fixture(scope="module")
def rows(unbroken: Path) -> list[dict[str, Any]]:
    (file,) = unbroken.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_row_has_times_and_memory_of_each_process(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 10
    for row in rows:
        for name in ("time", "data_time", "memory"):
            values = [row[f"{name}/rank{rank}"] for rank in (0, 1)]
            assert min(values) > 0
            assert row[f"{name}/max"] == max(values) == values[row[f"{name}/max_rank"]]
        assert row["time/rank0"] == pytest.approx(row["time"], rel=1e-5)
        assert 100 < row["memory"] < 10_000


def test_the_line_of_the_log_is_mmengines(unbroken: Path) -> None:
    (log,) = unbroken.glob("*/*.log")
    lines = [line for line in log.read_text().splitlines() if "Epoch(train)" in line]
    assert len(lines) == 10
    assert [line for line in lines if not LINE.search(line)] == []


def test_the_job_began_ran_and_ended_once(unbroken: Path) -> None:
    events, notes = read_status(unbroken / "status.json")
    kinds = [event["status"] for event in events]
    assert (kinds[0], kinds[-1], notes) == ("STARTED", "SUCCESS", [])
    assert set(kinds[1:-1]) == {"RUNNING"}
    assert {event["pid"] for event in events} == {events[0]["pid"]}
    assert {(event["rank"], event["world_size"]) for event in events} == {(0, 2)}
    assert (events[1]["step"], events[1]["steps"]) == (1, 10)
    assert events[1]["eta_s"] > 0
    assert (events[-1]["epoch"], events[-1]["step"]) == (2, 10)


def test_status_of_the_run_has_a_row_a_process(unbroken: Path) -> None:
    found = job_status(unbroken)
    assert (found.state, found.world_size, found.notes) == ("finished", 2, ())
    assert [rank["rank"] for rank in found.ranks] == [0, 1]
    assert found.checkpoint == unbroken / "iter_10.pth"
    assert found.kpi["samples_per_s"] > 0


def test_metrics_hold_what_the_training_measured(unbroken: Path) -> None:
    content = json.loads((unbroken / "metrics.json").read_text())
    assert set(content) == {"train"}  # nothing was evaluated
    found = content["train"]
    assert (found["world_size"], found["global_batch"], found["steps"]) == (2, 4, 10)
    assert found["samples_per_s"] == pytest.approx(4 / found["step_time_s"])
    assert found["step_time_s"] == max(found["by_rank"]["step_time_s"])
    assert [len(values) for values in found["by_rank"].values()] == [2, 2, 2]
    assert (found["precision"], found["backend"], found["seed"]) == ("fp32", "cpu", 0)
    assert 0 < found["data_time_share"] < 1
    assert 0 < found["loss"] < 100
