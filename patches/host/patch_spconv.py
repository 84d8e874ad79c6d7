"""``import spconv`` gives AnyBEV's sparse modules, which mmdetection3d then registers."""

import importlib
import importlib.util
import pkgutil
import sys
from types import ModuleType

from anybev.device import current_backend
from anybev.device.ops._contract import CONTRACTS
from anybev.patches.outcome import PatchError

_SUPPLIED = "anybev.patches.spconv"
_REGISTERS = "mmdet3d.models.layers.spconv"  # when it is imported, whatever spconv is then


def skip_reason() -> str | None:
    """Where CUDA is used, an installed spconv is quicker than a plain-PyTorch reference.

    It stays too where ``ANYBEV_SPARSE_CONV`` asks for it: under our modules' name nobody finds it.
    """
    if current_backend().name != "cuda" or importlib.util.find_spec("spconv") is None:
        return None
    implementation = CONTRACTS["sparse_conv"].implementation("cuda")
    if implementation == "native":
        return None
    if implementation == "vendor":
        return "the installed spconv stays: ANYBEV_SPARSE_CONV asks for it"
    return "the installed spconv stays: on CUDA AnyBEV's sparse_conv is its PyTorch reference here"


def _check_not_too_late() -> None:
    if _REGISTERS not in sys.modules:
        return
    from mmengine.registry import MODELS

    registered = MODELS.get("SubMConv3d")
    if registered is not None and not registered.__module__.startswith(_SUPPLIED):
        raise PatchError(
            "patches: mmdet3d.models must be imported after the patches, for it keeps the sparse "
            f"modules that it finds, got {registered.__module__}.SubMConv3d; call "
            "anybev.patches.apply() before the import"
        )


def replace() -> dict[str, ModuleType]:
    """``spconv`` and its submodules, the package itself first.

    Raises:
        PatchError: mmdetection3d was imported before, and uses other sparse modules.
    """
    _check_not_too_late()
    package = importlib.import_module(_SUPPLIED)
    modules = {"spconv": package}
    for found in pkgutil.walk_packages(package.__path__, f"{_SUPPLIED}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            name = found.name.replace(_SUPPLIED, "spconv", 1)
            modules[name] = importlib.import_module(found.name)
    return modules
