"""Applies the ledger to the installed mmdetection3d: all of it, or nothing."""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType

from anybev import envs
from anybev.patches import targets
from anybev.patches.journal import Journal
from anybev.patches.ledger import Entry, read_ledger
from anybev.patches.outcome import Outcome, PatchError, State
from anybev.patches.projects import PatchOnImport, SupplyMissing, install
from anybev.patches.targets import Mismatch, Target

# Imported once the supplied modules are in place: registers every class of mmdetection3d.
_HOST = (
    "mmcv",
    "mmengine",
    "mmdet",
    "mmdet3d",
    "mmcv.ops",
    "mmdet3d.models",
    "mmdet3d.datasets",
    "mmdet3d.evaluation",
    "mmdet3d.engine",
    "mmdet3d.visualization",
)


class _Application:
    """The patches of one ledger, being applied or in place."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self.journal = Journal()
        self._outcomes: dict[str, Outcome] = {}

    @property
    def outcomes(self) -> list[Outcome]:
        return [self._outcomes[entry.id] for entry in self.entries if entry.id in self._outcomes]

    def _note(self, entry: Entry, state: State, reason: str = "") -> None:
        self._outcomes[entry.id] = Outcome(entry, state, reason)

    def _of(self, kind: str, *, projects: bool = False) -> list[Entry]:
        return [e for e in self.entries if e.kind == kind and (e.package == "projects") is projects]

    def _switched_off(self) -> None:
        off = envs.patches_off()
        if unknown := sorted(off - {entry.id for entry in self.entries}):
            raise ValueError(f"ANYBEV_PATCHES_OFF must name patches of the ledger, got {unknown}")
        for entry in self.entries:
            if entry.id in off:
                self._note(entry, State.SKIPPED, "switched off by ANYBEV_PATCHES_OFF")

    def _wanted(self, entry: Entry) -> bool:
        """Whether the host needs the patch; notes why not."""
        if entry.id in self._outcomes:
            return False
        if reason := targets.skip_reason(entry):
            self._note(entry, State.SKIPPED, reason)
            return False
        return True

    def run(self) -> None:
        """Apply everything.

        Raises:
            PatchError: a required patch failed, or the host cannot be imported; all is undone.
        """
        try:
            self._switched_off()
            with ExitStack() as imports:
                for entry in self._of("import"):
                    if self._wanted(entry):
                        imports.enter_context(targets.factory(entry)())
                        self._note(entry, State.APPLIED)
                self._supply_modules()
                _import_host()
                self._check_versions([*self._of("import"), *self._of("module")])
                self._replace(self._of("function"))
            self._stop_on_failure(self.entries)
            self._watch_projects()
        except BaseException:
            self.journal.rollback()
            raise

    def _supply_modules(self) -> None:
        for entry in self._of("module"):
            if not self._wanted(entry):
                continue
            replaced: dict[int, tuple[object, object]] = {}
            supplied: dict[str, ModuleType] = targets.factory(entry)()
            for name, module in supplied.items():
                before = sys.modules.get(name)
                if before is not None and before is not module:
                    replaced[id(before)] = (before, module)
                self.journal.set_module(name, module)
            if undo := getattr(targets.host_file(entry.file), "withdraw", None):
                self.journal.on_rollback(undo)
            self.journal.rebind(replaced)
            self._note(entry, State.APPLIED)

    def _check_versions(self, entries: Iterable[Entry]) -> None:
        """Of what stands in place of the host's, once the host can be asked."""
        for entry in entries:
            if self._outcomes[entry.id].state is not State.APPLIED:
                continue
            try:
                targets.check_version(entry)
            except Mismatch as error:
                self._note(entry, State.FAILED, str(error))

    def _found(self, entry: Entry) -> Target | None:
        try:
            targets.check_version(entry)
            return targets.find(entry)
        except Mismatch as error:
            self._note(entry, State.FAILED, str(error))
            return None

    def _replace(self, entries: list[Entry]) -> None:
        """Replace functions; none of them unless every required patch can be applied."""
        found = [(e, target) for e in entries if self._wanted(e) and (target := self._found(e))]
        self._stop_on_failure(entries)
        replaced: dict[int, tuple[object, object]] = {}
        for entry, target in found:
            new = target.wrapped(targets.factory(entry)(target.function))
            self.journal.set_attribute(target.owner, target.name, new)
            replaced[id(target.raw)] = (target.raw, new)
            self._note(entry, State.APPLIED)
        self.journal.rebind(replaced)

    def _stop_on_failure(self, entries: list[Entry]) -> None:
        outcomes = [self._outcomes[entry.id] for entry in entries if entry.id in self._outcomes]
        failed = [o for o in outcomes if o.state is State.FAILED and o.entry.required]
        if failed:
            raise PatchError(
                "patches: every required patch must apply; nothing was changed. "
                + "; ".join(str(outcome) for outcome in failed),
                self.outcomes,
            )

    def _watch_projects(self) -> None:
        """Patch a checkout's modules when they are imported; those that are, now."""
        functions = [e for e in self._of("function", projects=True) if self._wanted(e)]
        modules = [e for e in self._of("module", projects=True) if self._wanted(e)]
        by_module: dict[str, list[Entry]] = {}
        for entry in functions:
            by_module.setdefault(entry.module, []).append(entry)
        for name, entries in by_module.items():
            if name in sys.modules:
                self._replace(entries)
                continue
            for entry in entries:
                self._note(entry, State.SKIPPED, f"applied when {name} is imported")
        for entry in modules:
            self._note(entry, State.SKIPPED, f"supplied when {entry.target} is imported")
        self.journal.on_rollback(
            install(
                PatchOnImport(
                    {
                        name: lambda _, entries=entries: self._on_import(entries)  # type: ignore[misc]
                        for name, entries in by_module.items()
                    }
                ),
                first=True,
            )
        )
        self.journal.on_rollback(
            install(
                SupplyMissing(
                    {e.target: lambda entry=e: self._on_missing(entry) for e in modules}  # type: ignore[misc]
                ),
                first=False,
            )
        )

    def _on_import(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._outcomes.pop(entry.id, None)
        self._replace(entries)

    def _on_missing(self, entry: Entry) -> ModuleType:
        supplied: dict[str, ModuleType] = targets.factory(entry)()
        self._note(entry, State.APPLIED)
        self.journal.on_rollback(partial(_forget, entry.target))
        return supplied[entry.target]


def _import_host() -> None:
    for name in _HOST:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module of the host may fail in any way while it is imported
            off = f" (switched off: {', '.join(sorted(envs.patches_off()))})"
            raise PatchError(
                f"patches: {name} must be importable, got {type(error).__name__}: {error}"
                f"{off if envs.patches_off() else ''}; the host stack is installed by install.sh, "
                "versions in requirements/host.txt"
            ) from error


def _forget(name: str) -> None:
    sys.modules.pop(name, None)


_active: _Application | None = None
_lock = threading.RLock()


def apply() -> list[Outcome]:
    """Put the installed mmdetection3d on AnyBEV's operators, in this process.

    Imports mmdetection3d; its models must not have been imported with another spconv before.
    Applying twice changes nothing the second time. Processes that this one forks are patched too;
    one that is spawned has to apply for itself.

    Returns:
        One outcome for each entry of ``ledger.toml``; ALREADY for what an earlier call applied.

    Raises:
        PatchError: mmdetection3d is not installed, or a required patch cannot be applied; nothing
            is changed then.
        ValueError: ``ANYBEV_PATCHES_OFF`` names no patch.
    """
    global _active  # one process has one host
    with _lock:
        if _active is not None:
            return [outcome.repeated() for outcome in _active.outcomes]
        if importlib.util.find_spec("mmdet3d") is None:
            raise PatchError(
                "patches: mmdetection3d must be installed, got none; run install.sh without "
                "--no-host"
            )
        application = _Application(read_ledger())
        application.run()
        _active = application
        return application.outcomes


def undo() -> None:
    """Take every patch back; nothing happens where none is applied.

    Modules of the host stay imported; their calls of ``mmcv._ext`` raise until the patches are
    applied again.
    """
    global _active
    with _lock:
        if _active is not None:
            _active.journal.rollback()
            _active = None


@contextmanager
def applied() -> Iterator[list[Outcome]]:
    """Patches applied inside the block, and undone after it unless they were applied before.

    Yields:
        What ``apply`` returns.
    """
    outer = _active is not None
    try:
        yield apply()
    finally:
        if not outer:
            undo()
