"""`anybev check` passes on this machine, and catches what is broken."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from anybev import envs
from anybev.cli import main
from anybev.device import get_backend
from anybev.device.ops._contract import CONTRACTS, Contract
from anybev.device.report import operator_table
from anybev.engine.check import step
from anybev.engine.check.operators import OperatorCheck, all_cases, chosen_cases, operators_on
from anybev.engine.check.results import Row, Status

_OPERATORS = sorted(operator_table())
_STATUS = {"pass", "fail", "skip"}


def _check(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def _break(monkeypatch: pytest.MonkeyPatch, name: str, fault: Callable[[Any], Any]) -> None:
    """Let the kernel ``name`` give what ``fault`` makes of its result; references stay right."""
    sound = Contract.overload

    def overload(self: Contract) -> Any:
        kernel = sound(self)
        if self.name != name or self.public in envs.forced_references():
            return kernel
        return lambda *arguments: fault(kernel(*arguments))

    monkeypatch.setattr(Contract, "overload", overload)


def _raise(_: Any) -> Any:
    raise RuntimeError("launch failed\nsecond line")


def _off_by_a_little(result: Any) -> Any:
    return result * (1 + 1e-4)


def _wrong_dtype(result: Any) -> Any:
    return result.half()


def _not_finite(result: Any) -> Any:
    return torch.where(result == result.amax(), math.nan, result)


def _wrong_shape(result: Any) -> Any:
    return result[..., :1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    """One quick check of everything."""
    path = tmp_path_factory.mktemp("check") / "report.json"
    result = _check("--quick", "--json", path)
    return result, json.loads(path.read_text())


def test_this_machine_passes(whole: tuple[Result, dict[str, Any]]) -> None:
    result, report = whole
    assert result.exit_code == 0, result.output
    assert report["ok"]
    assert report["counts"]["fail"] == 0
    assert report["counts"]["pass"] > 250


def test_the_report_has_its_schema(whole: tuple[Result, dict[str, Any]]) -> None:
    report = whole[1]
    kinds = {
        "schema": int,
        "anybev": str,
        "commit": str,
        "date": str,
        "backend": str,
        "evidence": str,
        "stand_in": str,
        "ok": bool,
        "counts": dict,
        "seconds": float,
        "facts": dict,
        "environment": dict,
        "rows": list,
    }
    assert {key: type(value) for key, value in report.items()} == kinds
    assert report["evidence"] == "hardware"
    assert set(report["counts"]) == _STATUS
    assert sum(report["counts"].values()) == len(report["rows"])
    assert report["environment"]["ops"] == operator_table()
    fields = set(Row.__dataclass_fields__)
    for row in report["rows"]:
        assert set(row) == fields
        assert row["status"] in _STATUS
        if row["status"] == "pass" and row["section"] in ("operators", "training step"):
            assert 0 <= row["worst"] <= row["limit"]


def test_every_section_and_operator_is_there(whole: tuple[Result, dict[str, Any]]) -> None:
    rows = whole[1]["rows"]
    assert {row["section"] for row in rows} == {
        "environment",
        "memory",
        "operators",
        "training step",
        "collectives",
        "timing",
    }
    assert sorted({r["name"] for r in rows if r["section"] == "operators"}) == _OPERATORS
    assert {r["name"] for r in rows if r["section"] == "collectives"} >= {
        "all_reduce",
        "all_gather",
    }


def test_table_shows_operator_implementation_and_verdict(
    whole: tuple[Result, dict[str, Any]],
) -> None:
    output = whole[0].output
    lines = [line.split() for line in output.splitlines()]
    expected = operator_table()["sparse_conv"]["cpu"]
    convolution = [line for line in lines if line[:2] == ["sparse_conv", "backward,"]]
    assert convolution
    assert all(expected in line and line[-1] == "pass" for line in convolution)
    assert "0 fail" in output.splitlines()[-1]


def test_boundary_inputs_are_among_the_cases() -> None:
    for operator in _OPERATORS:
        names = [case.name for case in all_cases() if case.operator == operator]
        assert len(names) == len(set(names))
        for word in ("no ", "one "):
            empty = any(
                name.startswith(word) or f", {word}" in name or "0 x 5" in name for name in names
            )
            assert empty, f"{operator} has no case of {word!r}"
    pooled = {case.name for case in all_cases() if case.operator == "bev_pool"}
    assert {f"200 points x {count}" for count in (5, 360, 361)} <= pooled


def test_every_gradient_of_an_operator_is_compared() -> None:
    backward = {c.public for c in CONTRACTS.values() if "backward" in c.name or "grad" in c.name}
    assert backward == {case.operator for case in all_cases() if case.gradients}


@pytest.mark.parametrize(
    ("operator", "fault"),
    [
        ("sparse_conv", _off_by_a_little),
        ("bev_pool", _wrong_dtype),
        ("bev_pool", _not_finite),
        ("bev_pool", _wrong_shape),
        ("bev_pool", _raise),
    ],
)
def test_a_broken_kernel_fails_and_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, operator: str, fault: Callable[[Any], Any], tmp_path: Path
) -> None:
    _break(monkeypatch, operator, fault)
    arguments = ["--quick", "--ops", operator, "--json", tmp_path / "report.json"]
    result = _check(*arguments)
    assert result.exit_code == 1
    assert f'ANYBEV_OPS="{operator}=reference"' in result.output
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    broken = [row for row in rows if row["status"] == "fail"]
    assert len(broken) > len(rows) / 4
    if fault is _raise:
        assert broken[0]["message"] == "RuntimeError: launch failed"

    monkeypatch.setenv(envs.OPS, f"{operator}=reference")
    repaired = _check(*arguments)
    assert repaired.exit_code == 0, repaired.output
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {row["implementation"] for row in rows} == {"reference"}


@pytest.mark.parametrize("operator", _OPERATORS)
def test_every_operator_that_is_off_fails(monkeypatch: pytest.MonkeyPatch, operator: str) -> None:
    def off(result: Any) -> Any:
        if isinstance(result, torch.Tensor):
            if result.dtype is torch.bool:
                return ~result
            return result + 1 if not result.dtype.is_floating_point else result * 1.001 + 0.001
        return [off(part) for part in result]

    _break(monkeypatch, operator, off)
    checker = OperatorCheck(get_backend("cpu"))
    rows = [row for case in chosen_cases([operator]) for row in checker.rows(case, case.dtypes[0])]
    failed = [row for row in rows if row.status is Status.FAIL]
    assert len(failed) > len(rows) / 3
    assert {row.remedy for row in failed} == {f'ANYBEV_OPS="{operator}=reference"'}


def test_a_broken_gradient_fails_in_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, "bev_pool_backward", _raise)
    checker = OperatorCheck(get_backend("cpu"))
    rows = [row for case in chosen_cases(["bev_pool"]) for row in checker.rows(case, torch.float32)]
    by_direction = {row.case.partition(":")[0]: row.status for row in rows}
    assert by_direction == {"forward": Status.PASS, "backward": Status.FAIL}


def test_a_broken_planner_is_not_taken_for_a_broken_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _break(monkeypatch, "sparse_neighbors", _raise)
    assert _check("--quick", "--ops", "sparse_conv").exit_code == 0
    assert _check("--quick", "--ops", "sparse_neighbors").exit_code == 1


def test_the_users_choice_comes_back() -> None:
    with operators_on({"bev_pool": "reference"}):
        assert envs.forced_references() == {"bev_pool"}
        with operators_on({}):
            assert envs.forced_references() == frozenset()
        assert envs.forced_references() == {"bev_pool"}


def test_a_reference_is_no_error_where_native_kernels_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(envs.REQUIRE_NATIVE, "1")
    assert _check("--quick", "--ops", "points_in_boxes,draw_heatmap").exit_code == 0
    assert envs.require_native()


def test_a_training_step_with_a_broken_operator_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, "sparse_conv_grad_weight", lambda result: result * 1.01)
    rows = {row.name: row for row in step.step_rows(get_backend("cpu"), "lidar")}
    assert rows["losses"].status is Status.PASS
    assert rows["gradients"].status is Status.FAIL


def test_batch_statistics_that_stay_behind_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = step._outcome

    def forgetful(model: torch.nn.Module, batch: Any) -> step.Outcome:
        outcome = sound(model, batch)
        if envs.forced_references():
            return outcome
        return step.Outcome(
            outcome.losses,
            outcome.gradients,
            {k: v * 0 for k, v in outcome.buffers.items()},
        )

    monkeypatch.setattr(step, "_outcome", forgetful)
    rows = {row.name: row for row in step.step_rows(get_backend("cpu"), "lidar")}
    assert (rows["losses"].status, rows["buffers"].status) == (Status.PASS, Status.FAIL)


def test_a_gradient_that_is_lost_under_autocast_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, "lift_splat_backward", lambda result: result * 0)
    _break(monkeypatch, "sparse_conv_grad_weight", lambda result: result * 30)
    losses, gradients = step.mixed_precision_rows(get_backend("cpu"))
    assert losses.status is Status.PASS
    assert gradients.status is Status.FAIL


@pytest.mark.parametrize(
    ("loss", "factor", "status"),
    [
        ("loss_heatmap", 1.01, Status.PASS),
        ("loss_heatmap", 1.05, Status.FAIL),
        ("layer_-1_loss_bbox", 1.3, Status.PASS),  # another proposal, by a rounding
        ("layer_-1_loss_bbox", 1.7, Status.FAIL),
    ],
)
def test_losses_under_autocast_have_the_limits_of_what_they_choose(
    monkeypatch: pytest.MonkeyPatch, loss: str, factor: float, status: Status
) -> None:
    exact = step._outcome(step._build(step.tiny_camera_cfg()), step.tiny_camera_batch())
    near = replace(exact, losses={**exact.losses, loss: exact.losses[loss] * factor})
    outcomes = iter([exact, near])
    monkeypatch.setattr(step, "_outcome", lambda *_: next(outcomes))
    losses, gradients = step.mixed_precision_rows(get_backend("cpu"))
    assert (losses.status, gradients.status) == (status, Status.PASS)
    assert (loss in losses.message) == (status is Status.FAIL)


def test_one_thread_passes_under_autocast() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # rounds otherwise than two: another proposal is chosen
    try:
        rows = step.mixed_precision_rows(get_backend("cpu"))
    finally:
        torch.set_num_threads(threads)
    assert [row.status for row in rows] == [Status.PASS, Status.PASS], rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_spconv_does_not_take_is_skipped(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setenv("ANYBEV_SPARSE_CONV", "spconv")
    checker = OperatorCheck(replace(get_backend("cpu"), name="cuda"))
    case = chosen_cases(["sparse_conv"])[0]
    (row,) = checker.rows(case, dtype)
    assert (row.status, row.implementation) == (Status.SKIP, "vendor")
    assert row.message == "spconv takes float16 and float32 alone"
    assert {row.status for row in checker.rows(case, torch.float16)} == {Status.FAIL}
    monkeypatch.setenv(envs.OPS, "sparse_conv=reference")
    checker = OperatorCheck(get_backend("cpu"))
    assert {row.status for row in checker.rows(case, dtype)} == {Status.PASS}


def test_a_step_that_raises_is_a_failed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_outcome", _raise_two)
    (row,) = step.step_rows(get_backend("cpu"), "lidar")
    assert (row.status, row.message) == (Status.FAIL, "RuntimeError: out of memory")
    monkeypatch.setattr(step, "take_step", _raise_two)
    assert step.timing_row(get_backend("cpu"), 1).status is Status.FAIL


def _raise_two(*_: Any) -> Any:
    raise RuntimeError("out of memory")


def test_an_unknown_operator_ends_in_one_line() -> None:
    result = _check("--ops", "sparse_cnv")
    assert result.exit_code == 1
    assert result.output.startswith("Error: check: --ops must be of bev_pool, ")


def test_an_unknown_operator_in_the_users_choice_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(envs.OPS, "sparse_cnv=reference")
    for arguments in (["check", "--ops", "nms_rotated"], ["env"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ANYBEV_OPS: operator must be of bev_pool, ")


def test_an_absent_device_ends_in_one_line() -> None:
    absent = next(n for n in ("npu", "cuda") if get_backend(n).probe().devices == 0)
    result = _check("--device", absent)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: check: --device {absent} must work here, got: ")


def test_interruption_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    _break(monkeypatch, "bev_pool", interrupted)
    result = _check("--ops", "bev_pool", "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert list(tmp_path.iterdir()) == []
