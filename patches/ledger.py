"""The ledger: each patch with its target, the versions it fits, why it is there, until when."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

LEDGER = Path(__file__).with_name("ledger.toml")
KINDS = ("function", "module", "import")
PACKAGES = ("mmcv", "mmdet", "mmdet3d", "mmengine", "projects")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One patch.

    Attributes:
        id: unique, begins with the package.
        target: ``module:attribute[.attribute]`` of a function; the module's name otherwise.
        file: ``patches/host/<file>.py``, which makes the replacement.
        factory: function in it: ``original -> replacement`` for ``function``; ``() -> {name:
            module}`` for ``module``; a context manager around the host's import for ``import``.
        kind: one of ``KINDS``.
        package: whose version is checked; ``projects`` are folders of a user's checkout, patched
            when they are imported.
        versions: range of the package's versions that the patch was written for; of mmdetection3d's
            for ``projects``, whose files bear no version: their hash is checked alone.
        why: what is wrong upstream, or missing.
        upstream: link to the report, or to the code.
        remove_when: what has to happen for the patch to go.
        required: whether models compute wrongly, or not at all, without it.
        sha256: of the source that the patch replaces; empty where there is none.
    """

    id: str
    target: str
    file: str
    package: str
    versions: str
    why: str
    upstream: str
    remove_when: str
    required: bool
    sha256: str = ""
    factory: str = "replace"
    kind: str = "function"

    @property
    def module(self) -> str:
        """Module that the target lies in."""
        return self.target.partition(":")[0]

    @property
    def path(self) -> list[str]:
        """Attributes that lead from the module to the target."""
        return self.target.partition(":")[2].split(".")


def _checked(table: dict[str, object], where: str) -> Entry:
    known = {field.name: field.type for field in fields(Entry)}
    if unknown := sorted(set(table) - set(known)):
        raise ValueError(f"{where}: keys must be those of an entry, got {unknown}")
    try:
        entry = Entry(**table)  # type: ignore[arg-type]  # checked below
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
    for name, value in vars(entry).items():
        if not isinstance(value, bool if name == "required" else str):
            raise ValueError(f"{where}: {name} must be of type {known[name]}, got {value!r}")
    if entry.kind not in KINDS or entry.package not in PACKAGES:
        raise ValueError(
            f"{where}: kind must be one of {KINDS} and package one of {PACKAGES}, got "
            f"{entry.kind!r} and {entry.package!r}"
        )
    try:
        SpecifierSet(entry.versions)
    except InvalidSpecifier as error:
        raise ValueError(
            f"{where}: versions must be a version range, got {entry.versions!r}"
        ) from error
    if entry.kind == "function" and (":" not in entry.target or len(entry.sha256) != 64):
        raise ValueError(f"{where}: a function needs target module:attribute and its sha256")
    return entry


def read_ledger(file: Path = LEDGER) -> list[Entry]:
    """Entries in the order of the file.

    Raises:
        ValueError: an entry is incomplete, has unknown keys, or repeats an id or a function.
    """
    tables = tomllib.loads(file.read_text(encoding="utf-8")).get("patch", [])
    entries = [
        _checked(table, f"{file.name}: patch {table.get('id', number)}")
        for number, table in enumerate(tables, 1)
    ]
    functions = [entry.target for entry in entries if entry.kind == "function"]
    for key, values in (("id", [entry.id for entry in entries]), ("target", functions)):
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{file.name}: {key} must be unique, got {repeated} repeatedly")
    return entries
