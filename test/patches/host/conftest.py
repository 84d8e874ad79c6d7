"""The functions of the host as they are without patches."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anybev import patches
from anybev.patches import targets
from anybev.patches.ledger import Entry, read_ledger

Function = Callable[..., Any]


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    return {entry.id: entry for entry in read_ledger()}


@pytest.fixture
def unpatched(host: list[patches.Outcome]) -> Iterator[None]:
    """The patches are off while the test runs; the host stays imported."""
    patches.undo()
    yield
    patches.apply()


@pytest.fixture
def pair(unpatched: None, entries: dict[str, Entry]) -> Callable[[str], tuple[Function, Function]]:
    """By id of a patch: the function of the host, and what the patch makes of it."""

    def make(patch: str) -> tuple[Function, Function]:
        original = targets.find(entries[patch]).function
        return original, targets.factory(entries[patch])(original)

    return make
