"""`anybev env`: three columns that say what is here and what would be."""

from typing import Any

import pytest
from click.testing import CliRunner

from anybev.cli import main
from anybev.device import get_backend
from anybev.device.npu import adapters
from anybev.device.ops import _native
from anybev.device.report import installable_table, operator_table
from anybev.reporting.machine import operator_rows


def _facts(states: dict[str, str], here: dict[str, str]) -> dict[str, Any]:
    installed = {"cpu": "native", "cuda": "native", "npu": "vendor"}
    return {
        "backends": {name: {"state": state} for name, state in states.items()},
        "ops": {"bev_pool": here},
        "installable": {"bev_pool": installed},
    }


def test_a_backend_that_is_absent_says_so_and_what_would_be() -> None:
    states = {"cpu": "available", "cuda": "absent", "npu": "broken"}
    here = {"cpu": "native", "cuda": "reference", "npu": "reference"}
    assert operator_rows(_facts(states, here)) == [
        ["operator", "cpu", "cuda (absent)", "npu (broken)"],
        ["bev_pool", "native", "reference (native)", "reference (vendor)"],
    ]


def test_a_backend_that_is_there_says_who_answers() -> None:
    states = dict.fromkeys(("cpu", "cuda", "npu"), "available")
    here = {"cpu": "reference", "cuda": "native", "npu": "vendor"}
    assert operator_rows(_facts(states, here))[1] == [
        "bev_pool",
        "reference (native)",
        "native",
        "vendor",
    ]


def test_vendor_only_where_mx_driving_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "installed", lambda: False)
    assert {row["npu"] for row in operator_table().values()} == {"reference"}
    monkeypatch.setattr(adapters, "installed", lambda: True)
    found = {operator for operator, row in operator_table().items() if row["npu"] == "vendor"}
    assert found == {operator for operator in operator_table() if operator in adapters.ADAPTERS}


def test_what_an_installation_gives_is_what_is_declared() -> None:
    table = installable_table()
    for name, word in {"cpu": "native", "cuda": "native", "npu": "vendor"}.items():
        found = {operator for operator, row in table.items() if row[name] == word}
        assert found == _native.DECLARED[name]


def test_env_prints_the_columns() -> None:
    output = CliRunner().invoke(main, ["env"]).output
    for name in ("cuda", "npu"):
        probe = get_backend(name).probe()
        column = name if probe.state.value == "available" else f"{name} ({probe.state.value})"
        assert column in output
    assert "sparse_conv" in output
