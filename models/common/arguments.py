"""Calling a class with what a config says, wrong keys named."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")


def suggestion(word: str, known: Collection[str], likeness: float = 0.6) -> str:
    """``"; try <the known word nearest to it>"``, or nothing where none is so alike (0..1)."""
    close = get_close_matches(word, known, 1, likeness)
    return f"; try {close[0]}" if close else ""


def refuse_unknown(where: str, keys: Iterable[str], accepted: Collection[str]) -> None:
    """Stop at a key that nothing reads.

    Args:
        where: place in the config and, where there is one, what is built there.
        keys: of the config.
        accepted: known ones.

    Raises:
        ValueError: the first unknown key, with the known one nearest to it.
    """
    for key in keys:
        if key not in accepted:
            raise ValueError(
                f"{where} must be given known keys, got {key!r}{suggestion(key, accepted)}"
            )


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
    refuse_unknown(f"{where}: {name}", arguments, accepted)
    named = {**arguments, **more}
    waiting = list(accepted.items())[len(given) :]
    missing = [key for key, p in waiting if p.default is p.empty and key not in named]
    if missing:
        raise ValueError(f"{where}: {name} must be given {', '.join(missing)}, got none")
    return factory(*given, **named)
