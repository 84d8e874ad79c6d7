"""A compiled ``mmcv._ext`` that does not load."""

import importlib
from types import ModuleType

import pytest

from anybev.patches import PatchError
from anybev.patches.host import patch_mmcv_ext_gaps


def test_a_compiled_extension_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def import_module(name: str, *package: str) -> ModuleType:
        if name == "mmcv._ext":
            raise ImportError("undefined symbol: _ZN3c10")
        return load(name, *package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(PatchError, match=r"mmcv\._ext must load, got ImportError: undefined"):
        patch_mmcv_ext_gaps.replace()
