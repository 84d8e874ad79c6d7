"""``mmcv._ext`` from AnyBEV's operators where mmcv is installed without its compiled extension."""

import importlib.util
import sys
from functools import cache
from types import ModuleType

from anybev.patches.ext._module import SuppliedExt

NAME = "mmcv._ext"


@cache
def supplied_ext() -> SuppliedExt:
    """The one module, so that host modules that bound it work again when patches come back."""
    return SuppliedExt()


def compiled() -> bool:
    """Whether this mmcv has its compiled extension."""
    loaded = sys.modules.get(NAME)
    if loaded is not None:
        return loaded is not supplied_ext()
    return importlib.util.find_spec(NAME) is not None


def skip_reason() -> str | None:
    """A compiled extension is left in place."""
    return "mmcv is compiled: its mmcv._ext is left in place" if compiled() else None


def replace() -> dict[str, ModuleType]:
    """The module under its name."""
    return {NAME: supplied_ext().open()}


def withdraw() -> None:
    """Let calls through host modules that bound the module raise."""
    supplied_ext().close()
