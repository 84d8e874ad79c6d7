"""`anybev check` on the simulated npu: it runs whole, is no evidence, and catches faults."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from anybev.cli import main
from anybev.device import get_backend
from anybev.device.ops._contract import Contract
from anybev.engine.check import member
from anybev.engine.check.collectives import collective_rows
from anybev.engine.check.results import Status
from anybev.engine.check.run import Report, Request, run
from anybev.engine.check.table import report_table

_PROGRAM = (sys.executable, "-m", "anybev.testing.simnpu", str(Path(member.__file__)))


@contextmanager
def _silent(title: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


@pytest.fixture(scope="module")
def report() -> Report:
    """One quick check of everything."""
    return run(Request(quick=True, program=_PROGRAM), _silent)


def test_it_passes_and_is_no_evidence(report: Report) -> None:
    assert report.ok, report_table(report)
    assert (report.backend, report.evidence) == ("npu", "simulated")
    assert json.loads(json.dumps(report.to_dict()))["evidence"] == "simulated"
    assert "no evidence about hardware" in report_table(report).splitlines()[-1]


def test_pinned_memory_and_the_second_device_are_used(report: Report) -> None:
    rows = {row.name: row.status for row in report.rows if row.section == "memory"}
    assert set(rows.values()) == {Status.PASS}


def test_collectives_run_over_both_devices(report: Report) -> None:
    rows = [row for row in report.rows if row.section == "collectives"]
    assert {row.case for row in rows} == {"2 processes, cpu:gloo,npu:hccl"}
    assert {row.name for row in rows} == set(member.OPERATIONS)


def test_without_mx_driving_the_rows_say_reference(report: Report) -> None:
    rows = [row for row in report.rows if row.section == "operators"]
    assert {row.implementation for row in rows} == {"reference"}


def test_a_wrong_value_on_the_device_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sound = Contract.overload

    def overload(self: Contract) -> Any:
        kernel = sound(self)

        def off(*arguments: Any) -> Any:
            result = kernel(*arguments)
            return result * 1.001 if result.device.type == "npu" else result

        return off if self.name == "bev_pool" else kernel

    monkeypatch.setattr(Contract, "overload", overload)
    path = tmp_path / "report.json"
    result = CliRunner().invoke(main, ["check", "--ops", "bev_pool", "--json", str(path)])
    assert result.exit_code == 1
    rows = json.loads(path.read_text())["rows"]
    failed = {row["case"] for row in rows if row["status"] == "fail"}
    assert "forward: 600 points x 8" in failed
    assert "forward: no point" not in failed


def test_a_result_on_the_wrong_device_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Contract.overload

    def overload(self: Contract) -> Any:
        kernel = sound(self)
        return (lambda *a: kernel(*a).cpu()) if self.name == "points_in_boxes" else kernel

    monkeypatch.setattr(Contract, "overload", overload)
    result = CliRunner().invoke(main, ["check", "--ops", "points_in_boxes"])
    assert result.exit_code == 1
    assert "must be on npu:0, got cpu" in result.output


def test_a_process_that_never_saw_the_device_is_quoted() -> None:
    backend = get_backend("npu")
    program = (sys.executable, "-c", "import torch; torch.device('npu:0')")
    (row,) = collective_rows(backend, program)
    assert row.status is Status.FAIL
    assert "process 0: RuntimeError" in row.message
    assert torch.device("npu:0").index == 0
