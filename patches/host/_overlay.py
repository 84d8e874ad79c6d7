"""Running a function of the host with a few of its globals answered differently."""

from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any


class _Globals(dict[str, Any]):
    """Globals of a function: ``names`` first, then the module's own, as they are when asked."""

    # What Python takes out of the globals of a function without asking __missing__.
    _TAKEN = ("__builtins__", "__name__", "__package__", "__spec__")

    def __init__(self, module: dict[str, Any], names: dict[str, Any]) -> None:
        super().__init__({name: module[name] for name in self._TAKEN if name in module}, **names)
        self._module = module

    def __missing__(self, name: str) -> Any:
        return self._module[name]


class Facade(ModuleType):
    """A module of which some attributes are others; the module itself is not changed."""

    def __init__(self, module: ModuleType, **attributes: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(attributes, _facade_of=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._facade_of, name)


def with_globals(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """A copy of ``function``, same code, that finds ``names`` where it looks for globals.

    The other globals stay those of its module, whatever is put there later. Functions that it
    defines inside see the names too.

    Args:
        function: a plain Python function, not decorated.
        **names: what to answer in place of the module's.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(function, FunctionType):
        raise TypeError(f"patches: a plain function is needed, got {function!r}")
    copy = FunctionType(
        function.__code__,
        _Globals(function.__globals__, names),
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = function.__annotations__
    copy.__dict__.update(function.__dict__)
    copy.__doc__ = function.__doc__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    return copy
