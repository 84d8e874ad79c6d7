"""``import spconv`` gives AnyBEV's sparse modules, which mmdetection3d then registers."""

import importlib
import pkgutil
from types import ModuleType

_SUPPLIED = "anybev.patches.spconv"


def replace() -> dict[str, ModuleType]:
    """``spconv`` and its submodules, the package itself first."""
    package = importlib.import_module(_SUPPLIED)
    modules = {"spconv": package}
    for found in pkgutil.walk_packages(package.__path__, f"{_SUPPLIED}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            modules[found.name.replace(_SUPPLIED, "spconv", 1)] = importlib.import_module(
                found.name
            )
    return modules
