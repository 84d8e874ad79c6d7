"""The table of supplied names."""

import re
from pathlib import Path

import pytest
import torch

import anybev
from anybev.patches.ext import _table
from anybev.patches.ext._module import SuppliedExt, answered_by
from anybev.patches.ext._names import NAMES


def test_every_supplied_name_is_one_that_mmcv_asks_for() -> None:
    answered_by()
    assert set(_table.SUPPLIED) <= set(NAMES)


def test_a_name_that_nothing_supplies_says_so() -> None:
    unsupplied = next(name for name, by in answered_by().items() if by == "error")
    ext = SuppliedExt().open()
    with pytest.raises(NotImplementedError, match=rf"mmcv\._ext\.{unsupplied}: AnyBEV has no"):
        getattr(ext, unsupplied)()
    ext.close()
    with pytest.raises(RuntimeError, match=r"mmcv\._ext\.nms: AnyBEV's patches must be applied"):
        ext.nms()


def test_autocast_does_not_reach_a_composite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_table, "SUPPLIED", {})

    @_table.supplies()
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b

    call = _table.SUPPLIED["product"].call
    a = torch.rand(3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        assert call(a, b=a).dtype == torch.float32
    with pytest.raises(KeyError, match=r"mmcv\._ext\.product is supplied twice"):
        _table.supplies()(product)


def test_the_page_lists_every_name_under_what_answers_it() -> None:
    """docs/host.md."""
    page = (Path(anybev.__file__).resolve().parents[2] / "docs/host.md").read_text()
    rows = dict(
        re.findall(r"^\| (`\w+`|a composite of .*?|an error .*?) \| (`.*`) \|$", page, re.MULTILINE)
    )
    heads = {"composite": "a composite of torch functions", "error": "an error that says so"}
    for name, by in answered_by().items():
        assert f"`{name}`" in rows[heads.get(by, f"`{by}`")], name
