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
from anybev.device import get_backend, installed
from anybev.device.ops._contract import Contract
from anybev.engine.check import member
from anybev.engine.check.collectives import collective_rows
from anybev.engine.check.compare import LIMITS, REDUCED_FLOAT32_LIMIT
from anybev.engine.check.results import Status
from anybev.engine.check.run import Report, Request, run
from anybev.engine.check.table import report_table
from anybev.testing.fake_mx_driving import stand_in

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


_VENDOR_OPERATORS = "bev_pool,draw_heatmap,points_in_boxes,voxelize_dynamic,voxelize_hard"


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def test_vendor_kernels_pass_inside_their_limits_and_are_left_outside(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["check", "--quick", "--ops", _VENDOR_OPERATORS, "--json", str(path)]
    with stand_in() as binding:
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = _rows(path)
    vendor = {row["name"] for row in rows if row["implementation"] == "vendor"}
    assert vendor == set(_VENDOR_OPERATORS.split(","))
    pooled = {row["case"]: row for row in rows if row["name"] == "bev_pool"}
    assert pooled["forward: 200 points x 360"]["implementation"] == "vendor"
    outside = pooled["forward: 200 points x 361"]
    assert outside["implementation"] == "reference"
    assert "channels must divide by 8, got 361" in outside["message"]
    assert {"npu_bev_pool_v3", "hard_voxelize"} <= set(binding.calls)


def test_a_vendor_kernel_that_is_off_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    arguments = ["check", "--quick", "--ops", "points_in_boxes", "--json", str(path)]
    with stand_in():
        package = sys.modules["mx_driving"]
        sound = package.points_in_boxes_all
        monkeypatch.setattr(
            package, "points_in_boxes_all", lambda boxes, points: 1 - sound(boxes, points)
        )
        broken = CliRunner().invoke(main, arguments)
        assert broken.exit_code == 1
        assert 'ANYBEV_OPS="points_in_boxes=reference"' in broken.output
        monkeypatch.setenv("ANYBEV_OPS", "points_in_boxes=reference")
        assert CliRunner().invoke(main, arguments).exit_code == 0
    assert {row["implementation"] for row in _rows(path)} == {"reference"}


def test_rounded_products_are_off_for_the_tight_limits_and_tried_as_set(report: Report) -> None:
    rows = [row for row in report.rows if row.name == "sparse_conv" and row.dtype == "float32"]
    limits = {row.case.partition(":")[0]: row.limit for row in rows}
    assert limits["forward as set"] == limits["backward as set"] == REDUCED_FLOAT32_LIMIT
    assert limits["forward"] == limits["backward"] == LIMITS[torch.float32]
    backend = get_backend("npu")
    assert installed.rounds_float32(backend)
    with installed.full_float32(backend):
        assert not installed.rounds_float32(backend)
    assert installed.rounds_float32(backend)
