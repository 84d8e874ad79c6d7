"""docs/backends.md says of every operator what proves it, and the files that it names are there."""

import re

import pytest
import torch

from anybev.device.npu import adapters
from anybev.device.ops import _native
from anybev.device.report import operator_table
from anybev.engine.check import compare
from anybev.testing.backend_lint import ROOT

PAGE = (ROOT / "docs" / "backends.md").read_text()
_ROW = re.compile(r"^\| (\w+) \|(.*)\|(.*)\|(.*)\|$", re.M)
_ROWS = {found[1]: found.groups()[1:] for found in _ROW.finditer(PAGE)}


def test_every_file_that_is_named_exists() -> None:
    roots = "benchmark|configs|csrc|device|docs|engine|src|test|tools"
    files = set(re.findall(rf"`((?:{roots})/[\w./]+)`", PAGE))
    assert len(files) > 30
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("operator", sorted(operator_table()))
def test_every_operator_has_its_row(operator: str) -> None:
    cuda, npu, simulated = _ROWS[operator]
    emulated = f"test/device/ops/test_{operator}.py"
    assert (f"`{emulated}`" in cuda) is (operator in _native.DECLARED["cuda"])
    assert npu.strip().startswith("reference") is (operator not in adapters.ADAPTERS)
    assert "`test/npu/" in simulated


def test_limits_are_those_of_the_check() -> None:
    line = next(text for text in PAGE.splitlines() if text.startswith("| an operator |"))
    limits = [float(cell) for cell in line.split("|")[2:-1]]
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    assert limits == [compare.LIMITS[dtype] for dtype in dtypes]
    products = next(
        text for text in PAGE.splitlines() if text.startswith("| sparse_conv, products")
    )
    numbers = [float(number) for number in re.findall(r"\d+e-\d+", products)]
    assert numbers == [compare.REDUCED_FLOAT32_LIMIT, compare.NARROW_SUM_LIMIT]
    whole = next(text for text in PAGE.splitlines() if text.startswith("| losses, gradients"))
    assert float(re.findall(r"\d+e-\d+", whole)[0]) == compare.MODEL_LIMIT


def test_nothing_is_called_verified_without_a_report() -> None:
    reports = [p.name for p in (ROOT / "benchmark" / "results").glob("check_*.json")]
    said = "**Nothing is hardware-verified on cuda or npu today.**" in PAGE
    assert said is not any("cuda" in name or "npu" in name for name in reports)
