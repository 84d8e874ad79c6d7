"""Whose modules ``import spconv`` gives."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from anybev.patches import PatchError
from anybev.patches.host import patch_spconv
from anybev.patches.spconv import pytorch as ours


@pytest.mark.parametrize(
    ("backend", "installed", "kernel", "stays"),
    [
        ("cuda", True, "reference", True),
        ("cuda", True, "native", False),
        ("cuda", True, "vendor", True),
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


def test_models_imported_before_the_patches_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.registry import MODELS

    class SubMConv3d:
        pass

    name = "mmdet3d.models.layers.spconv"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(MODELS.module_dict, "SubMConv3d", SubMConv3d)
    message = r"must be imported after the patches, .* got .*test_spconv.SubMConv3d"
    with pytest.raises(PatchError, match=message):
        patch_spconv.replace()
    monkeypatch.setitem(MODELS.module_dict, "SubMConv3d", ours.SubMConv3d)
    assert patch_spconv.replace()["spconv.pytorch"] is ours
