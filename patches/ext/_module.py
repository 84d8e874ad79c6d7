"""The module that stands in for mmcv's compiled extension."""

import importlib
import pkgutil
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import anybev.patches.ext
from anybev.patches.ext._names import NAMES
from anybev.patches.ext._table import SUPPLIED


def load_families() -> None:
    """Import every file of functions, which fills the table."""
    for file in pkgutil.iter_modules(anybev.patches.ext.__path__):
        if not file.name.startswith("_"):
            importlib.import_module(f"anybev.patches.ext.{file.name}")


def answered_by() -> dict[str, str]:
    """For each name: AnyBEV's operators, ``composite`` (plain torch), or ``error``."""
    load_families()
    known = {
        name: ", ".join(supplied.operators) or "composite" for name, supplied in SUPPLIED.items()
    }
    return {name: known.get(name, "error") for name in NAMES}


def _refusing(name: str, error: type[Exception], message: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> None:
        raise error(message)

    refuse.__name__ = name
    return refuse


def _missing(name: str) -> Callable[..., Any]:
    return _refusing(
        name,
        NotImplementedError,
        f"mmcv._ext.{name}: AnyBEV has no operator or composite for it, and this mmcv is not "
        "compiled; docs/host.md lists what there is",
    )


def _withdrawn(name: str) -> Callable[..., Any]:
    return _refusing(
        name,
        RuntimeError,
        f"mmcv._ext.{name}: AnyBEV's patches must be applied (anybev.patches.apply()), but they "
        "were undone",
    )


class SuppliedExt(ModuleType):
    """``mmcv._ext``; its functions raise while the patches are not applied."""

    def __init__(self) -> None:
        super().__init__("mmcv._ext", "mmcv's operators, answered by AnyBEV.")
        self.__spec__ = ModuleSpec(self.__name__, None)  # mmengine asks whether there is one
        load_families()

    def open(self) -> "SuppliedExt":
        """Let every name answer."""
        for name in NAMES:
            known = SUPPLIED.get(name)
            setattr(self, name, known.call if known else _missing(name))
        return self

    def close(self) -> None:
        """Let every name raise."""
        for name in NAMES:
            setattr(self, name, _withdrawn(name))
