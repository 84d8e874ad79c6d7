"""Triton kernels compiled for devices that are not there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import anybev

ROOT = Path(anybev.__file__).resolve().parents[2]
KERNELS = {"find_cells", "sum_cells", "gradient"}


def lower(folder: Path, **changes: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report of the tool."""
    out = folder / "report.json"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "cache"), **changes}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "tools/lower_triton.py", "--out", str(out)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert out.exists(), done.stderr[-2000:]
    report: dict[str, Any] = json.loads(out.read_text())
    assert len(done.stdout.splitlines()) == len(report["rows"])
    return done.returncode, report


def installed(module: str) -> bool:
    """Whether a module of triton's can be found."""
    return find_spec("triton") is not None and find_spec(module) is not None


@pytest.mark.skipif(
    not installed("triton.backends.nvidia"),
    reason="upstream triton is not installed (requirements/test.in)",
)
def test_kernels_compile_for_every_architecture_of_the_cuda_build(tmp_path: Path) -> None:
    status, report = lower(tmp_path)
    assert status == 0
    compiled = {(row["kernel"], row["target"]) for row in report["rows"]}
    assert compiled == {(k, f"sm_{a}") for k in KERNELS for a in (80, 90, 100)}
    for row in report["rows"]:
        assert row["cubin_bytes"] > 1000
        assert row["fused_multiply_adds"] == 0, "cells would differ from the other kernels'"
    assert report["what"] == "compiled, not run"


@pytest.mark.skipif(
    not installed("triton.backends.ascend") or find_spec("ascendnpuir") is None,
    reason="triton-ascend and ascendnpu-ir are not installed (docs/backends.md)",
)
def test_kernels_lower_for_ascend_and_oversized_ones_overflow(tmp_path: Path) -> None:
    status, report = lower(tmp_path)
    assert status == 0
    rows = {(row["kernel"], row["expect"]): row for row in report["rows"]}
    assert set(rows) == {(k, e) for k in KERNELS for e in ("compiles", "overflow")}
    for (_, expect), row in rows.items():
        assert (row["status"] != 0) is row["ub_overflow"] is (expect == "overflow")
    assert report["what"] == "lowered to HIVM, not to object code, not run"


def test_the_stored_report_is_of_the_kernels_that_are_there() -> None:
    report = json.loads((ROOT / "benchmark" / "results" / "triton_ascend.json").read_text())
    assert set(report["versions"]) == {"torch", "triton-ascend", "ascendnpu-ir"}
    assert {row["kernel"] for row in report["rows"]} == KERNELS
    assert all(row["as_expected"] for row in report["rows"])


def test_without_a_compiler_the_tool_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'triton' else f(name, *a)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "tools/lower_triton.py"],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 3
    assert "triton or triton-ascend must be installed" in done.stderr
