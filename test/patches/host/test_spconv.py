"""Whose modules ``import spconv`` gives."""

import importlib.util
from types import SimpleNamespace

import pytest

from anybev.patches.host import patch_spconv


@pytest.mark.parametrize(
    ("backend", "installed", "kernel", "stays"),
    [
        ("cuda", True, "reference", True),
        ("cuda", True, "native", False),
        ("cuda", False, "reference", False),
        ("cpu", True, "reference", False),
        ("npu", True, "reference", False),
    ],
)
def test_an_installed_spconv_stays_only_where_it_is_quicker(
    monkeypatch: pytest.MonkeyPatch, backend: str, installed: bool, kernel: str, stays: bool
) -> None:
    contract = SimpleNamespace(implementation=lambda _: kernel)
    monkeypatch.setitem(patch_spconv.CONTRACTS, "sparse_conv", contract)
    monkeypatch.setattr(patch_spconv, "current_backend", lambda: SimpleNamespace(name=backend))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if installed else None)
    assert bool(patch_spconv.skip_reason()) is stays
