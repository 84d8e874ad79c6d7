"""Measuring the exchange of gradients: plans, tables, and two processes for real."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from anybev.benchmark.train import scaling, scaling_network, scaling_tables
from anybev.benchmark.train.scaling_worker import STAGES, Load, work_of
from anybev.reporting.communication import MIB, Link, all_reduce_s

NUMEL = [MIB // 4, MIB // 2, MIB]  # 1, 2 and 4 MiB of fp32
LINK = Link(1e-3, 1e9)
MACHINE = {"device": "cpu", "torch": "2.13", "commit": "abc", "date": "2026", "cores": 2}
ABOUT = {"network": "loopback", "processes": 2, "gradient_mb": 4 * sum(NUMEL) / 1e6, "steps": 3}


def _rows(step_s: float) -> list[dict[str, Any]]:
    """A file's rows: exchanges as LINK gives them, computation of 0.3 s, one step of both."""
    found: list[dict[str, Any]] = [
        {"measure": "exchange", "wire": "fp32", "bytes": size, "seconds": seconds}
        for size in (MIB, 7 * MIB)
        for seconds in [all_reduce_s(size, 2, LINK, "ring")]
    ]
    found.append({"measure": "compute", "load": "device", "seconds": 0.3})
    found.append({"measure": "both", "load": "device", "seconds": step_s, **scaling._case(4)})
    return [ABOUT | MACHINE | row for row in found]


def test_stages_share_the_gradients_and_the_time() -> None:
    spent: list[float] = []
    model = Load([10, 20, 30, 40], spent.append)
    out = model(torch.ones(1, requires_grad=True))
    out.sum().backward()
    assert sum(spent) == pytest.approx(STAGES)
    assert model.stage_of == sorted(model.stage_of)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


def test_loads_wait_or_multiply() -> None:
    work_of({"load": "device", "seconds": 0.0})(1.0)
    work_of({"load": "host", "products": STAGES})(1.0)


def test_a_plan_measures_the_parts_of_what_it_measures_together() -> None:
    for group in scaling.GROUPS:
        plan = scaling.plan(group, [10_000_000], steps=3, seconds=0.1)
        assert plan["sizes"] == [MIB, 5 * MIB, 25 * MIB, 40_000_000]
        compressed = any(c["gradient_compression"] == "bf16" for c in group.device)
        assert ("bf16" in plan["wires"]) == compressed
        assert all(case["gradient_compression"] == "none" for case in group.host)
    assert {group.processes for group in scaling.GROUPS} == {2, 4, 8}


def test_gradients_are_those_of_the_full_model() -> None:
    assert sum(scaling.gradient_numel("lidar")) == 8_306_030


def test_the_model_stands_beside_what_was_measured() -> None:
    # Buckets of 4 and 3 MiB; the second is ready when the backward pass ends.
    step_s = 0.3 + all_reduce_s(3 * MIB, 2, LINK, "ring")
    ((row, guess),) = scaling_tables.compared(_rows(step_s), NUMEL)
    assert guess.step_s == pytest.approx(row["seconds"])
    text = scaling_tables.measured(_rows(step_s), NUMEL)
    assert "| loopback | 2 | device | 4 | fp32 | yes | 300.0 |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| loopback | 2 | device")]
    (header,) = [
        line for line in text.splitlines() if line.startswith("| network") and "load" in line
    ]
    column = header.split(" | ").index("overlap assumed")
    assert line.split(" | ")[column] == "1"
    assert "backward share 0.6667 of the computation (assumed" in text
    assert "median error 0 %, largest 0 %, 1 cases" in text
    assert "| 2.00 | 1.00 |" not in text
    assert "| 1.00 | 1.00 |" in text  # the link, found again


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 1.0),
        ({"overlap": False}, 0.0),
        ({"gradient_compression": "bf16"}, 0.0),
        ({"load": "host"}, 0.0),
        ({"load": "host", "cores": 8}, 1.0),
        ({"load": "host", "network": "1000 Mbit/s"}, 1.0),
    ],
)
def test_what_overlaps(changes: dict[str, Any], share: float) -> None:
    assert scaling_tables.overlap_share(_rows(1.0)[-1] | changes) == share


def test_the_estimate_says_that_it_is_one() -> None:
    text = scaling_tables.estimated([199_016] * 200)
    assert text.startswith("**ESTIMATE**: no accelerator was measured.")
    assert "| gradients | 159.2 MB | measured |" in text
    for devices in (8, 16, 64, 1024):
        assert text.count(f" fp32 | {devices} | ") == 1
    # What DrivingSDK states for 16 devices comes back where the spread explains it.
    (sixteen, *_) = [line for line in text.splitlines() if " fp32 | 16 |" in line]
    assert sixteen.endswith("| 97.07% |")


def test_rows_of_another_model_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows must be of gradients of 0\.0 MB, got none"):
        scaling_tables.measured(_rows(1.0), [10])
    with pytest.raises(FileNotFoundError, match="must exist, got none; try `measure`"):
        scaling.read_rows(tmp_path / "gone.jsonl")


def test_a_slow_network_needs_a_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="a slow network needs root"), scaling_network.cable(1):
        pass
    monkeypatch.setattr(scaling_network.shutil, "which", lambda _: None)
    assert scaling_network.why_not() == "needs ip and tc (iproute2)"


@pytest.mark.skipif(bool(scaling_network.why_not()), reason=str(scaling_network.why_not()))
def test_the_cable_goes_with_the_block() -> None:
    def listed() -> str:
        return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout

    with scaling_network.cable(1000) as (first, second):
        assert first.namespace in listed()
        limit = second.command("tc", "qdisc", "show", "dev", second.interface)
        assert "tbf" in subprocess.run(limit, capture_output=True, text=True, check=True).stdout
        taken = "ip netns add .* must work for a slow network, got: "
        with pytest.raises(RuntimeError, match=taken), scaling_network.cable(1000):
            pass
    assert first.namespace not in listed()


def test_two_processes_measure_and_a_second_start_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scaling.jsonl"
    monkeypatch.setattr(scaling, "gradient_numel", lambda _: NUMEL)
    group = scaling.Group(2, None, [scaling._case(1), scaling.HALF], [scaling.AFTER])
    scaling.measure(out, "lidar", steps=1, seconds=0.02, groups=[group])
    rows = scaling.read_rows(out)
    assert [row["measure"] for row in rows].count("both") == 3
    assert {row["processes"] for row in rows} == {2}
    assert all(row["seconds"] > 0 and row["commit"] for row in rows)
    scaling.measure(out, "lidar", steps=1, seconds=0.02, groups=[group])
    assert scaling.read_rows(out) == rows
    assert "2 processes, loopback: already there" in capsys.readouterr().out


def test_a_process_that_fails_is_shown_and_none_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = scaling.Group(2, None, [])
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(scaling.subprocess, "Popen", start)
    command = [sys.executable, "-c", "raise SystemExit('no such plan')"]
    monkeypatch.setattr(scaling, "_commands", lambda *_: [(command, dict(os.environ))])
    with pytest.raises(RuntimeError, match=r"must end with 0, got \[1\]:\nno such plan"):
        scaling.run_group(group, {})
    command[-1] = "import time; time.sleep(60)"
    monkeypatch.setattr(scaling, "_GROUP_LIMIT_S", 0.2)
    with pytest.raises(RuntimeError, match=r"2 processes must end in 0\.2 s, got no end"):
        scaling.run_group(group, {})
    assert all(job.poll() is not None for job in started)


def test_the_command_prints_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [row | {"gradient_mb": 4 * 8_306_030 / 1e6} for row in _rows(0.3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scaling.main(["tables", "--file", str(file), "--model", "lidar"])
    assert "Gradients of 33.2 MB in fp32" in capsys.readouterr().out


def test_a_page_takes_the_tables_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- tables -->\nold\n<!-- end of tables -->\nb\n")
    scaling.put_into(page, "tables", "new")
    assert page.read_text() == "a\n<!-- tables -->\nnew\n<!-- end of tables -->\nb\n"
    with pytest.raises(ValueError, match="must have the marks <!-- estimate --> and"):
        scaling.put_into(page, "estimate", "new")
