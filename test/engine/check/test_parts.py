"""The parts of `anybev check`: comparison, versions, memory, collectives, table."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anybev.device import get_backend, installed
from anybev.engine.check import memory
from anybev.engine.check.case import Draw
from anybev.engine.check.collectives import collective_rows
from anybev.engine.check.compare import tensors, worst_error
from anybev.engine.check.environment import environment_rows
from anybev.engine.check.memory import memory_rows
from anybev.engine.check.results import Row, Status, failed, judged
from anybev.engine.check.run import Report
from anybev.engine.check.table import report_table

_CPU = get_backend("cpu")
_ROW = Row("operators", "bev_pool", "forward: x", Status.PASS)


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([0.5], [0.0], 0.5),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0),
        ([1.0, 1.0], [math.nan, 1.0], math.inf),
        ([math.inf], [-math.inf], math.inf),
        ([math.nan], [math.inf], math.inf),
        ([], [], 0.0),
    ],
)
def test_error_is_relative_to_the_largest_value(
    actual: list[float], expected: list[float], error: float
) -> None:
    found = worst_error(torch.tensor(actual), torch.tensor(expected, dtype=torch.float64))
    assert found == pytest.approx(error, rel=1e-5)


def test_integers_must_be_equal() -> None:
    one, other = torch.tensor([1, 2]), torch.tensor([1, 3])
    assert (worst_error(one, one), worst_error(one, other)) == (0.0, math.inf)


def test_nan_is_above_every_limit() -> None:
    assert judged(_ROW, math.nan, 1.0).status is Status.FAIL
    assert judged(_ROW, 1.0, 1.0).status is Status.PASS
    assert judged(_ROW, math.inf, 1.0).flat()["worst"] is None


def test_tensors_of_nested_results_are_named() -> None:
    one = torch.zeros(1)
    assert [name for name, _ in tensors((one, [one, one]))] == [
        "result[0]",
        "result[1][0]",
        "result[1][1]",
    ]


def test_a_case_draws_the_same_input_every_time() -> None:
    assert torch.equal(Draw("a").normal(5), Draw("a").normal(5))
    assert not torch.equal(Draw("a").normal(5), Draw("b").normal(5))


_CUDA = {
    "torch": "2.13.0+cu130",
    "chips": "sm_90",
    "built for": "sm_80 sm_90 compute_120",
    "device": "NVIDIA H100",
}
_NPU = {
    "python": "3.11.7",
    "torch": "2.7.1",
    "torch_npu": "2.7.1",
    "mx_driving": "26.2.0.post2",
    "mx_driving for A5": "",
    "device": "Ascend910B3",
}


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("cuda", _CUDA, None),
        ("cuda", _CUDA | {"chips": "sm_86"}, None),
        ("cuda", _CUDA | {"chips": "sm_75"}, "torch must be built for sm_75, got sm_80 sm_90"),
        ("cuda", _CUDA | {"chips": "sm_100"}, "torch must be built for sm_100"),
        ("cuda", _CUDA | {"chips": "sm_121"}, None),
        ("cpu", {"torch": "2.5.1"}, "torch must be at least 2.6, got 2.5.1"),
        ("npu", _NPU, None),
        ("npu", _NPU | {"mx_driving": ""}, None),
        ("npu", _NPU | {"torch_npu": "2.8.0"}, "torch_npu must be of torch's release"),
        ("npu", _NPU | {"torch": "2.13.0", "torch_npu": "2.13.0"}, "must have torch 2.6 to 2.8"),
        ("npu", _NPU | {"python": "3.12.1"}, "must have Python 3.9 to 3.11, got 3.12.1"),
        ("npu", _NPU | {"mx_driving for A5": "26.2.0"}, "mx_driving must be installed once"),
        ("npu", _NPU | {"mx_driving": "26.2.0.post1"}, "built for torch 2.1"),
        ("npu", _NPU | {"device": "Ascend310P3"}, "device must be of the Atlas A2 or A3 family"),
    ],
)
def test_versions_that_do_not_fit_are_named(
    name: str, facts: dict[str, str], message: str | None
) -> None:
    backend = get_backend(name)
    rows = environment_rows(backend, facts)
    if message is None:
        assert [row.status for row in rows] == [Status.PASS]
        assert facts["torch"] in rows[0].message
    else:
        assert [row.status for row in rows] == [Status.FAIL]
        assert message in rows[0].message


def test_facts_of_this_machine() -> None:
    found = installed.facts(_CPU)
    assert found["torch"] == torch.__version__
    assert found["instruction set"]
    assert installed.simulated(_CPU) == ""
    assert not installed.rounds_float32(_CPU)


def test_kernels_of_another_library_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_NATIVE_LIBRARY", "emulated.so")
    assert installed.simulated(_CPU) == "kernels of ANYBEV_NATIVE_LIBRARY"


def test_toolkit_version_is_read_from_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "aarch64-linux"
    folder.mkdir()
    (folder / "ascend_toolkit_install.info").write_text("package_name=x\nversion=8.2.RC1\n")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path))
    assert installed.facts(replace(_CPU, name="npu"))["CANN"] == "8.2.RC1"
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(installed, "_TOOLKIT_DEFAULT", str(tmp_path / "none"))
    assert installed.facts(replace(_CPU, name="npu"))["CANN"] == "unknown"


def test_bytes_that_change_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_BYTES", 1 << 10)
    assert [row.status for row in memory_rows(_CPU)] == [
        Status.PASS,
        Status.PASS,
        Status.SKIP,
        Status.SKIP,
    ]
    monkeypatch.setattr(memory.torch, "equal", lambda *_: False)
    row = memory_rows(_CPU)[1]
    assert (row.status, row.message) == (
        Status.FAIL,
        "RuntimeError: bytes changed between host and device",
    )


def test_a_process_that_dies_is_quoted() -> None:
    program = (sys.executable, "-c", "print('noise'); raise SystemExit('no route to device')")
    (row,) = collective_rows(_CPU, program)
    assert row.status is Status.FAIL
    assert "process 0: no route to device" in row.message


def test_wrong_values_name_their_process(tmp_path: Path) -> None:
    script = (
        "import json, sys\n"
        "rank, folder = sys.argv[2], sys.argv[4]\n"
        "found = {'all_reduce': 'wrong values' if rank == '1' else '', 'broadcast': ''}\n"
        "open(f'{folder}/rank{rank}.json', 'w').write(json.dumps(found))\n"
    )
    rows = {row.name: row for row in collective_rows(_CPU, (sys.executable, "-c", script))}
    assert rows["all_reduce"].message == "process 1: wrong values"
    assert rows["broadcast"].status is Status.PASS


def test_table_says_when_a_device_was_simulated() -> None:
    rows = [
        failed(replace(_ROW, dtype="float32", implementation="vendor", remedy="X"), "bad\x1b[31m"),
        Row("memory", "pinned memory", "npu", Status.SKIP, message="no reason"),
    ]
    report = Report("npu", {}, {}, "a simulated device", rows)
    assert report.to_dict()["evidence"] == "simulated"
    text = report_table(report)
    assert not report.ok
    assert "FAIL 1" in text
    assert "FAIL  bev_pool float32 (forward: x): bad?[31m; until it is repaired: X" in text
    assert "SKIP  pinned memory (npu): no reason" in text
    assert text.splitlines()[-1].startswith("npu (a simulated device: no evidence about hardware)")
