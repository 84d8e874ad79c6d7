"""Which function answers a name of ``mmcv._ext``, and from what it is built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Supplied:
    """One name of ``mmcv._ext``.

    Attributes:
        name: as mmcv's Python layer asks for it.
        operators: AnyBEV's operators it runs on; empty for a composite of torch functions.
        call: takes the arguments of mmcv's binding, by position or by keyword.
    """

    name: str
    operators: tuple[str, ...]
    call: Callable[..., Any]


SUPPLIED: dict[str, Supplied] = {}


def supplies(*operators: str) -> Callable[[_Function], _Function]:
    """Register a function as the name of ``mmcv._ext`` that it bears.

    Raises:
        KeyError: two functions bear one name.
    """

    def register(function: _Function) -> _Function:
        name = function.__name__
        if name in SUPPLIED:
            raise KeyError(f"mmcv._ext.{name} is supplied twice")
        SUPPLIED[name] = Supplied(name, operators, function)
        return function

    return register
