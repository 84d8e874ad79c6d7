"""A stand-in of mx_driving whose every call is checked against the real wheel's contract.

Its binding ``mx_driving._C`` offers the functions that the wheel's offers, takes what the wheel's
takes (``contract.json``, read from mx-driving 26.2.0.post2, and documented limits) and computes on
the host, by loops written from mx_driving's documentation. Above it stands either our own Python
layer or, given a wheel, the wheel's. It needs the simulated npu (``anybev.testing.simnpu``).
"""

import ast
import importlib
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from anybev.device.npu import adapters
from anybev.testing.fake_mx_driving import _boxes, _layer, _points, _pool, _sparse
from anybev.testing.fake_mx_driving._contract import ContractError, check_call, contract

__all__ = ["DEVICE_NAME", "Binding", "ContractError", "contract", "stand_in", "unpacked"]

DEVICE_NAME = "Ascend910B3"


class Binding(ModuleType):
    """``mx_driving._C``.

    Attributes:
        calls: names of the functions that were called, in order.
    """

    def __init__(self) -> None:
        super().__init__("mx_driving._C")
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in contract()["bindings"]:
            raise AttributeError(f"mx_driving._C has no {name} in {contract()['wheel']['file']}")

        def call(*args: Any) -> Any:
            check_call(name, args)
            self.calls.append(name)
            return _compute(name, args)

        return call


def _compute(name: str, args: tuple[Any, ...]) -> Any:
    for module in (_points, _sparse, _boxes, _pool):
        if function := getattr(module, name, None):
            break
    else:
        raise NotImplementedError(f"mx_driving._C.{name}: the stand-in does not compute it")
    device = next(a.device for a in args if isinstance(a, Tensor) and a.device.type == "npu")

    def moved(value: Any, where: torch.device) -> Any:
        if isinstance(value, tuple):
            return tuple(moved(v, where) for v in value)
        return value.detach().to(where) if isinstance(value, Tensor) else value

    host = torch.device("cpu")
    return moved(function(*(moved(a, host) for a in args)), device)


def unpacked(wheel: Path, folder: Path) -> Path:
    """Folder with the package of a wheel, which is a file or a folder already."""
    if wheel.is_dir():
        return wheel
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.endswith(".py")])
    return folder


def _module(name: str, path: list[str]) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = path
    return module


def _own_layer(package: ModuleType, binding: Binding, runtime: Any) -> dict[str, ModuleType]:
    package.__dict__.update(_layer.functions(binding))
    sparse = _module("mx_driving.ops.sparse_functional", [])
    sparse.__dict__.update(_layer.sparse_functions(binding, runtime))
    return {"mx_driving.ops": _module("mx_driving.ops", []), sparse.__name__: sparse}


def _real_layer(package: ModuleType, folder: Path) -> dict[str, ModuleType]:
    """Names of the package that import their module when they are asked for.

    The package's own ``__init__`` stays out: it imports everything and patches torch.
    """
    package.__path__ = [str(folder / "mx_driving")]
    places = {}
    for node in ast.parse((folder / "mx_driving" / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            places.update({alias.name: node.module for alias in node.names})

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"mx_driving has no {name}")
        found = getattr(importlib.import_module(f"mx_driving.{places[name]}"), name)
        return _layer.refusing_keywords(name, found)

    package.__dict__["__getattr__"] = find
    return {"mx_driving.ops": _module("mx_driving.ops", [str(folder / "mx_driving" / "ops")])}


@contextmanager
def stand_in(wheel: Path | None = None) -> Iterator[Binding]:
    """Inside the block ``mx_driving`` is the stand-in and the device says it is an Ascend 910B.

    Args:
        wheel: folder of an unpacked wheel, whose Python layer then runs instead of ours.

    Yields:
        The binding, with its list of calls.
    """
    binding, runtime = Binding(), adapters.runtime()
    package = _module("mx_driving", [])
    package.__dict__["_C"] = binding
    extra = _real_layer(package, wheel) if wheel else _own_layer(package, binding, runtime)
    before = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "mx_driving"}
    called = runtime.get_device_name
    for name in before:
        del sys.modules[name]
    sys.modules.update({"mx_driving": package, "mx_driving._C": binding, **extra})
    runtime.get_device_name = lambda where=None: DEVICE_NAME
    adapters.tell_again()
    try:
        yield binding
    finally:
        runtime.get_device_name = called
        for name in [n for n in sys.modules if n.split(".")[0] == "mx_driving"]:
            del sys.modules[name]
        sys.modules.update(before)
