"""Which function answers a name of ``mmcv._ext``, and from what it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

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


def first_tensor(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """The first tensor among the arguments of a call; it says on which device the call is."""
    values = (*arguments, *named.values())
    return next((value for value in values if isinstance(value, Tensor)), None)


def _in_given_dtypes(function: _Function) -> _Function:
    """The function out of autocast's reach: mmcv's compiled operators know none."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        first = first_tensor(arguments, named)
        if first is None or not torch.is_autocast_enabled(first.device.type):
            return function(*arguments, **named)
        with torch.autocast(first.device.type, enabled=False):
            return function(*arguments, **named)

    return cast(_Function, call)


def supplies(*operators: str) -> Callable[[_Function], _Function]:
    """Register a function as the name of ``mmcv._ext`` that it bears.

    Raises:
        KeyError: two functions bear one name.
    """

    def register(function: _Function) -> _Function:
        name = function.__name__
        if name in SUPPLIED:
            raise KeyError(f"mmcv._ext.{name} is supplied twice")
        guarded = _in_given_dtypes(function)
        SUPPLIED[name] = Supplied(name, operators, guarded)
        return guarded

    return register
