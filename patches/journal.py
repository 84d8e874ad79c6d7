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

        Rolling back looks again: modules that were imported in between bound the new objects.

        Args:
            replaced: by ``id`` of the old object: (old, new).
        """
        back = {id(new): (new, old) for old, new in replaced.values()}
        own = {(id(module), name) for module, name, _ in _bindings(back)}  # stay as they are
        for module, name, new in _bindings(replaced):
            setattr(module, name, new)

        def undo() -> None:
            for module, name, old in _bindings(back):
                if (id(module), name) not in own:
                    setattr(module, name, old)

        self.on_rollback(undo)

    def rollback(self) -> None:
        """Undo every change, the last one first."""
        while self._undo:
            self._undo.pop()()


def _bindings(pairs: dict[int, tuple[object, object]]) -> list[tuple[ModuleType, str, object]]:
    """Modules, but AnyBEV's own, names in them that hold the first of a pair, and its second."""
    return [
        (module, name, pairs[id(value)][1])
        for module_name, module in list(sys.modules.items())
        if module_name.partition(".")[0] != "anybev" and isinstance(module, ModuleType)
        for name, value in list(vars(module).items())
        if id(value) in pairs and pairs[id(value)][0] is value
    ]
