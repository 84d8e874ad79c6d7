"""Patches of a user's checkout (``projects/...``), made when its modules are imported."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any


class _PatchingLoader(importlib.abc.Loader):
    """Executes a module as its own loader does, then calls back."""

    def __init__(self, loader: Any, done: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._done = done

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._done(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class PatchOnImport(importlib.abc.MetaPathFinder):
    """Calls back after each of the named modules is imported; stands first in the meta path."""

    def __init__(self, callbacks: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._callbacks = callbacks

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a named module, its loader wrapped; None for any other."""
        if fullname not in self._callbacks:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _PatchingLoader(spec.loader, self._callbacks[fullname])
        return spec


class _GivenLoader(importlib.abc.Loader):
    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module is complete."""


class SupplyMissing(importlib.abc.MetaPathFinder):
    """Gives the named modules where no other finder has them; stands last in the meta path."""

    def __init__(self, make: Mapping[str, Callable[[], ModuleType]]) -> None:
        self._make = make

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a named module; None for any other."""
        if fullname not in self._make:
            return None
        return importlib.util.spec_from_loader(fullname, _GivenLoader(self._make[fullname]()))


def install(finder: importlib.abc.MetaPathFinder, *, first: bool) -> Callable[[], None]:
    """Add a finder to the meta path; returns what takes it off again."""
    sys.meta_path.insert(0 if first else len(sys.meta_path), finder)

    def remove() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    return remove
