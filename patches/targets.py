"""Finding what a patch replaces, and checking that it is what the patch was written for."""

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from anybev.patches.ledger import Entry


class Mismatch(Exception):
    """The target is not what the patch was written for; the message says how it differs."""


@dataclass(frozen=True)
class Target:
    """A function to replace.

    Attributes:
        owner: module or class that holds it.
        name: attribute of the owner.
        raw: what the owner's dictionary holds (a staticmethod stays one).
        function: the function itself.
    """

    owner: Any
    name: str
    raw: object
    function: Callable[..., Any]

    def wrapped(self, replacement: Callable[..., Any]) -> object:
        """The replacement as the owner's dictionary has to hold it."""
        if isinstance(self.raw, staticmethod | classmethod):
            return type(self.raw)(replacement)
        return replacement


def source_sha256(function: Callable[..., Any]) -> str:
    """Hash of a function's source text, decorators included."""
    return hashlib.sha256(inspect.getsource(inspect.unwrap(function)).encode()).hexdigest()


@cache
def host_file(name: str) -> ModuleType:
    """``patches/host/<name>.py``."""
    return importlib.import_module(f"anybev.patches.host.{name}")


def skip_reason(entry: Entry) -> str | None:
    """Why the host does not need the patch, by the patch's own word; None when it does."""
    asked = getattr(host_file(entry.file), f"skip_reason_{entry.factory}", None)
    asked = asked or getattr(host_file(entry.file), "skip_reason", None)
    return asked() if asked else None


def factory(entry: Entry) -> Callable[..., Any]:
    """The function of ``patches/host`` that makes the replacement."""
    made: Callable[..., Any] = getattr(host_file(entry.file), entry.factory)
    return made


def check_version(entry: Entry) -> None:
    """Compare the installed version with the entry's range.

    Raises:
        Mismatch: it lies outside.
    """
    if entry.package == "projects":
        return
    found = importlib.import_module(entry.package).__version__
    if not SpecifierSet(entry.versions).contains(Version(found), prereleases=True):
        raise Mismatch(f"written for {entry.package} {entry.versions}, found {found}")


def find(entry: Entry) -> Target:
    """The function that an entry names, its module imported.

    Raises:
        Mismatch: there is none, or its source has another hash.
    """
    try:
        owner: Any = importlib.import_module(entry.module)
    except ImportError as error:
        raise Mismatch(f"{entry.module} cannot be imported: {error}") from error
    *parents, name = entry.path
    for parent in parents:
        if not hasattr(owner, parent):
            raise Mismatch(f"{entry.module} has no {'.'.join(entry.path)}")
        owner = getattr(owner, parent)
    if name not in vars(owner):
        raise Mismatch(f"{entry.module} has no {'.'.join(entry.path)}")
    raw = vars(owner)[name]
    function = raw.__func__ if isinstance(raw, staticmethod | classmethod) else raw
    try:
        found = source_sha256(function)
    except (OSError, TypeError) as error:
        raise Mismatch(f"its source cannot be read: {error}") from error
    if found != entry.sha256:
        raise Mismatch(
            f"its source has changed: sha256 {entry.sha256[:12]}... in the ledger, {found} here"
        )
    return Target(owner, name, raw, function)
