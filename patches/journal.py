"""Changes to modules and classes that can be taken back."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_ABSENT = object()


class Journal:
    """Remembers what was there before each change; ``rollback`` brings all of it back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """Have ``undo`` called; what was changed last is undone first."""
        self._undo.append(undo)

    def set_attribute(self, owner: Any, name: str, value: object) -> None:
        """Set an attribute of a module or a class."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)

        def undo() -> None:
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self.on_rollback(undo)

    def set_module(self, name: str, module: ModuleType) -> None:
        """Have ``import name`` give ``module``; what was imported under that name is hidden."""
        hidden = {
            other: loaded
            for other, loaded in sys.modules.items()
            if other == name or other.startswith(f"{name}.")
        }
        for other in hidden:
            del sys.modules[other]
        sys.modules[name] = module

        def undo() -> None:
            sys.modules.pop(name, None)
            sys.modules.update(hidden)

        self.on_rollback(undo)

    def rebind(self, replaced: dict[int, tuple[object, object]]) -> None:
        """Replace objects, by identity, in every module that imported them by name.

        Args:
            replaced: by ``id`` of the old object: (old, new).
        """
        for module_name, module in list(sys.modules.items()):
            if module_name.partition(".")[0] == "anybev" or not isinstance(module, ModuleType):
                continue
            for name, value in list(vars(module).items()):
                if id(value) in replaced and replaced[id(value)][0] is value:
                    self.set_attribute(module, name, replaced[id(value)][1])

    def rollback(self) -> None:
        """Undo every change, the last one first."""
        while self._undo:
            self._undo.pop()()
