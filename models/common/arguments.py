"""Calling a class with what a config says, wrong keys named."""

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")


def suggestion(word: str, known: Collection[str]) -> str:
    """``"; try <the known word nearest to it>"``, or nothing."""
    close = get_close_matches(word, known, 1)
    return f"; try {close[0]}" if close else ""


def call(
    where: str, factory: Callable[..., T], arguments: Mapping[str, Any], *given: Any, **more: Any
) -> T:
    """``factory(*given, **arguments, **more)``; ``more`` overrides ``arguments``.

    Args:
        where: place in the config, for messages.
        factory: class to construct.
        arguments: keys of the config.
        given: positional arguments that the config does not hold.
        more: named arguments that the config does not decide.

    Raises:
        ValueError: a key that the class does not know, or one that it needs is missing.
    """
    name = getattr(factory, "__name__", str(factory))
    accepted = dict(inspect.signature(factory).parameters)
    for key in arguments:
        if key not in accepted:
            raise ValueError(
                f"{where}: {name} must be given known keys, got {key!r}{suggestion(key, accepted)}"
            )
    named = {**arguments, **more}
    waiting = list(accepted.items())[len(given) :]
    missing = [key for key, p in waiting if p.default is p.empty and key not in named]
    if missing:
        raise ValueError(f"{where}: {name} must be given {', '.join(missing)}, got none")
    return factory(*given, **named)
