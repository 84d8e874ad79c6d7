"""``import spconv`` gives AnyBEV's sparse modules, which mmdetection3d then registers."""

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from anybev.device import current_backend
from anybev.device.ops._contract import CONTRACTS

_SUPPLIED = "anybev.patches.spconv"


def skip_reason() -> str | None:
    """Where CUDA is used, an installed spconv is quicker than a plain-PyTorch reference."""
    if current_backend().name != "cuda" or importlib.util.find_spec("spconv") is None:
        return None
    if CONTRACTS["sparse_conv"].implementation("cuda") == "native":
        return None
    return "the installed spconv stays: on CUDA AnyBEV's sparse_conv is its PyTorch reference here"


def replace() -> dict[str, ModuleType]:
    """``spconv`` and its submodules, the package itself first."""
    package = importlib.import_module(_SUPPLIED)
    modules = {"spconv": package}
    for found in pkgutil.walk_packages(package.__path__, f"{_SUPPLIED}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            name = found.name.replace(_SUPPLIED, "spconv", 1)
            modules[name] = importlib.import_module(found.name)
    return modules
