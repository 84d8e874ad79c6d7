"""The engine on a small host of its own: whole or not at all, and back again."""

import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybev import patches
from anybev.patches import application, targets
from anybev.patches.ledger import Entry
from anybev.patches.outcome import PatchError, State

UPSTREAM = """
def area(x, y):
    return x * y

class Head:
    def forward(self, x):
        return x + 1

    @staticmethod
    def scale(x):
        return 2 * x

    @classmethod
    def name(cls):
        return cls.__name__
"""
USER = """
from toyhost.ops import area
from toyhost.ops import Head as Imported
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with functions to patch, and a module that imported one by name."""
    package = tmp_path / "toyhost"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ops.py").write_text(UPSTREAM)
    (package / "user.py").write_text(USER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(application, "_HOST", ("toyhost.user",))
    yield importlib.import_module("toyhost.ops")
    for name in [name for name in sys.modules if name.partition(".")[0] == "toyhost"]:
        del sys.modules[name]


Apply = Callable[..., list[patches.Outcome]]


@pytest.fixture
def apply(monkeypatch: pytest.MonkeyPatch) -> Iterator[Apply]:
    """Applies a ledger of the given entries, whose replacements are given too."""
    factories = ModuleType("toy_factories")
    monkeypatch.setattr(targets, "host_file", lambda _: factories)

    def run(*entries: Entry, **functions: Callable[..., Any]) -> list[patches.Outcome]:
        vars(factories).update(functions)
        monkeypatch.setattr(application, "read_ledger", lambda: list(entries))
        return patches.apply()

    yield run
    patches.undo()


def entry(path: str, **changes: Any) -> Entry:
    """An entry for a function of the toy host, its hash the right one."""
    settings: dict[str, Any] = {
        "id": f"toy-{path.lower().replace('.', '-')}",
        "target": f"toyhost.ops:{path}",
        "file": "toy",
        "package": "mmcv",
        "versions": ">=2.0",
        "why": "test",
        "upstream": "none",
        "remove_when": "never",
        "required": True,
    }
    if "sha256" not in changes and hasattr(importlib.import_module("toyhost.ops"), path):
        found = getattr(importlib.import_module("toyhost.ops"), path)
        changes["sha256"] = targets.source_sha256(found)
    return Entry(**settings | {"sha256": "0" * 64} | changes)


def method(name: str, **changes: Any) -> Entry:
    head = importlib.import_module("toyhost.ops").Head
    return entry(f"Head.{name}", sha256=targets.source_sha256(getattr(head, name)), **changes)


def negate(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: -original(*values)


def test_every_kind_of_function_is_replaced_and_comes_back(toy: ModuleType, apply: Apply) -> None:
    before = dict(vars(toy)) | dict(vars(toy.Head))
    outcomes = apply(
        entry("area"),
        method("forward", factory="forward"),
        method("scale"),
        method("name", factory="named"),
        replace=negate,
        forward=lambda original: lambda self, x: -original(self, x),
        named=lambda original: lambda cls: original(cls).upper(),
    )
    assert [outcome.state for outcome in outcomes] == [State.APPLIED] * 4
    user = importlib.import_module("toyhost.user")
    assert toy.area(2, 3) == user.area(2, 3) == -6
    assert toy.Head().forward(1) == -2
    assert toy.Head.scale(4) == user.Imported().scale(4) == -8
    assert toy.Head.name() == "HEAD"
    patches.undo()
    assert dict(vars(toy)) | dict(vars(toy.Head)) == before
    assert user.area is toy.area
    assert isinstance(inspect.getattr_static(toy.Head, "scale"), staticmethod)


def test_twice_is_once(toy: ModuleType, apply: Apply) -> None:
    apply(entry("area"), replace=negate)
    replaced = toy.area
    assert [outcome.state for outcome in patches.apply()] == [State.ALREADY]
    assert toy.area is replaced


def test_threads_that_apply_at_once_apply_once(toy: ModuleType, apply: Apply) -> None:
    inside, states = threading.Event(), []

    def slowly(original: Callable[..., Any]) -> Callable[..., Any]:
        inside.set()
        second.join(0.1)
        return negate(original)

    def again() -> None:
        inside.wait(10)
        states.extend(outcome.state for outcome in patches.apply())

    second = threading.Thread(target=again)
    second.start()
    apply(entry("area"), replace=slowly)
    second.join(10)
    assert states == [State.ALREADY]
    assert toy.area(2, 3) == -6


def test_modules_imported_under_patches_are_undone_too(
    toy: ModuleType, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "toyhost.alias", importlib.import_module("toyhost.user"))
    folder = Path(str(toy.__file__)).parent
    (folder / "late.py").write_text("from toyhost.ops import area\n")
    apply(entry("area"), replace=negate)
    late = importlib.import_module("toyhost.late")
    assert late.area(2, 3) == -6
    patches.undo()
    assert late.area is toy.area
    assert late.area(2, 3) == 6


def test_a_block_undoes_only_what_it_did(toy: ModuleType, apply: Apply) -> None:
    apply(entry("area"), replace=negate)
    with patches.applied() as outcomes:
        assert [outcome.state for outcome in outcomes] == [State.ALREADY]
    assert toy.area(2, 3) == -6
    patches.undo()
    with patches.applied():
        assert toy.area(2, 3) == -6
    assert toy.area(2, 3) == 6


def test_a_block_undoes_after_an_error(toy: ModuleType, apply: Apply) -> None:
    apply(entry("area"), replace=negate)
    patches.undo()
    with pytest.raises(ZeroDivisionError), patches.applied():
        1 / 0  # noqa: B018
    assert toy.area(2, 3) == 6


def test_changed_source_fails_by_name_and_changes_nothing(toy: ModuleType, apply: Apply) -> None:
    def area(x: int, y: int) -> int:
        return x * y + 1

    with pytest.raises(PatchError, match=r"toy-area \(toyhost.ops:area\): FAILED: its source") as e:
        apply(method("scale"), entry("area", sha256=targets.source_sha256(area)), replace=negate)
    assert [o.entry.id for o in e.value.outcomes if o.state is State.FAILED] == ["toy-area"]
    assert toy.Head.scale(4) == 8
    assert toy.area(2, 3) == 6


def test_what_is_not_required_may_fail_alone(toy: ModuleType, apply: Apply) -> None:
    outcomes = apply(
        entry("area", required=False, sha256="1" * 64), method("scale"), replace=negate
    )
    assert [outcome.state for outcome in outcomes] == [State.FAILED, State.APPLIED]
    assert (toy.area(2, 3), toy.Head.scale(4)) == (6, -8)


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("volume", {}, "toyhost.ops has no volume"),
        ("Body.forward", {}, "toyhost.ops has no Body.forward"),
        ("area", {"versions": ">=9"}, r"written for mmcv >=9, found 2\."),
        ("area", {"target": "toyhost.gone:area"}, r"FAILED: toyhost.gone cannot be imported: No m"),
    ],
)
def test_a_target_that_does_not_fit_fails(
    toy: ModuleType, apply: Apply, path: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PatchError, match=message):
        apply(entry(path, **changes), replace=negate)


def test_an_error_of_a_factory_undoes_the_others(toy: ModuleType, apply: Apply) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        apply(entry("area"), method("scale", factory="broken"), replace=negate, broken=broken)
    assert toy.area(2, 3) == 6


def test_a_patch_that_is_not_needed_is_skipped(toy: ModuleType, apply: Apply) -> None:
    (outcome,) = apply(entry("area"), replace=negate, skip_reason=lambda: "numpy 2 has it")
    assert (outcome.state, outcome.reason) == (State.SKIPPED, "numpy 2 has it")
    assert toy.area(2, 3) == 6


def test_patches_are_switched_off_by_name(
    toy: ModuleType, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYBEV_PATCHES_OFF", "toy-area")
    outcomes = apply(entry("area"), method("scale"), replace=negate)
    assert [outcome.state for outcome in outcomes] == [State.SKIPPED, State.APPLIED]
    patches.undo()
    monkeypatch.setenv("ANYBEV_PATCHES_OFF", "toy-areas")
    with pytest.raises(ValueError, match=r"must name patches of the ledger, got \['toy-areas'\]"):
        patches.apply()


def test_a_supplied_module_hides_what_was_imported(
    toy: ModuleType, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, inner = ModuleType("toyspconv"), ModuleType("toyspconv.pytorch")
    monkeypatch.setitem(sys.modules, "toyspconv", real)
    monkeypatch.setitem(sys.modules, "toyspconv.pytorch", inner)
    user = importlib.import_module("toyhost.user")
    monkeypatch.setattr(user, "backend", real, raising=False)
    ours = ModuleType("ours")
    supply = entry("x", kind="module", target="toyspconv", factory="supply")
    apply(supply, supply=lambda: {"toyspconv": ours})
    assert importlib.import_module("toyspconv") is ours
    assert "toyspconv.pytorch" not in sys.modules
    assert user.backend is ours
    patches.undo()
    assert sys.modules["toyspconv"] is real
    assert sys.modules["toyspconv.pytorch"] is inner
    assert user.backend is real


def test_a_supplied_module_is_for_the_versions_of_its_entry(toy: ModuleType, apply: Apply) -> None:
    supply = entry("x", kind="module", target="toyspconv", factory="supply", versions="<2")
    with pytest.raises(
        PatchError, match=r"toy-x \(toyspconv\): FAILED: written for mmcv <2, found"
    ):
        apply(supply, supply=lambda: {"toyspconv": ModuleType("ours")})
    assert "toyspconv" not in sys.modules


def test_projects_are_patched_when_they_are_imported(
    toy: ModuleType, apply: Apply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "toyproject"
    folder.mkdir()
    (folder / "__init__.py").write_text("from . import compiled\n")
    (folder / "model.py").write_text("def area(x, y):\n    return x * y\n")
    (tmp_path / "model.py").write_text("def area(x, y):\n    return x * y\n")
    sha256 = targets.source_sha256(importlib.import_module("model").area)
    supplied = ModuleType("toyproject.compiled")
    lazy: dict[str, Any] = {"package": "projects"}
    before = list(sys.meta_path)
    apply(
        entry("area", **lazy, target="toyproject.model:area", sha256=sha256),
        entry("x", **lazy, kind="module", target="toyproject.compiled", factory="supply"),
        replace=negate,
        supply=lambda: {"toyproject.compiled": supplied},
    )
    assert [o.state for o in patches.apply()] == [State.SKIPPED, State.SKIPPED]
    model = importlib.import_module("toyproject.model")
    assert model.area(2, 3) == -6
    assert sys.modules["toyproject"].compiled is supplied
    assert [o.state for o in patches.apply()] == [State.ALREADY, State.ALREADY]
    patches.undo()
    assert model.area(2, 3) == 6
    assert sys.meta_path == before
    assert "toyproject.compiled" not in sys.modules
    for name in ("model", "toyproject", "toyproject.model"):
        monkeypatch.delitem(sys.modules, name)


def test_a_changed_project_fails_when_it_is_imported(
    toy: ModuleType, apply: Apply, tmp_path: Path
) -> None:
    (tmp_path / "toychanged.py").write_text("def area(x, y):\n    return x + y\n")
    apply(entry("area", package="projects", target="toychanged:area"), replace=negate)
    with pytest.raises(PatchError, match="toy-area"):
        importlib.import_module("toychanged")
    assert "toychanged" not in sys.modules


def test_a_project_that_failed_leaves_the_others_alone(
    toy: ModuleType, apply: Apply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def area(x, y):\n    return x * y\n"
    (tmp_path / "toygood.py").write_text(source)
    (tmp_path / "toybad.py").write_text(source.replace("*", "+"))
    sha256 = targets.source_sha256(importlib.import_module("toygood").area)
    monkeypatch.delitem(sys.modules, "toygood")
    apply(
        entry("area", id="bad", package="projects", target="toybad:area", sha256=sha256),
        entry("area", id="good", package="projects", target="toygood:area", sha256=sha256),
        replace=negate,
    )
    for _ in range(2):
        with pytest.raises(PatchError, match=r"bad \(toybad:area\): FAILED"):
            importlib.import_module("toybad")
    assert importlib.import_module("toygood").area(2, 3) == -6
    assert [o.state for o in patches.apply()] == [State.FAILED, State.ALREADY]
    monkeypatch.delitem(sys.modules, "toygood")


def test_a_project_whose_patch_breaks_can_be_imported_again(
    toy: ModuleType, apply: Apply, tmp_path: Path
) -> None:
    (tmp_path / "toytwo.py").write_text("def area(x, y):\n    return x * y\n\n\nvolume = area\n")
    sha256 = targets.source_sha256(importlib.import_module("toytwo").area)
    del sys.modules["toytwo"]
    fails = [True]

    def broken_once(original: Callable[..., Any]) -> Callable[..., Any]:
        if fails:
            raise ZeroDivisionError(fails.pop())
        return negate(original)

    lazy: dict[str, Any] = {"package": "projects", "sha256": sha256}
    apply(
        entry("area", **lazy, target="toytwo:area", factory="broken_once"),
        entry("volume", **lazy, target="toytwo:volume"),
        replace=negate,
        broken_once=broken_once,
    )
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("toytwo")
    assert importlib.import_module("toytwo").area(2, 3) == -6
    del sys.modules["toytwo"]


def test_without_a_host_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PatchError, match="mmdetection3d must be installed, got none"):
        patches.apply()


@pytest.mark.parametrize(("module", "error"), [("absent", "ModuleNotFound"), ("old", "Attribute")])
def test_a_host_that_does_not_import_is_named(
    module: str, error: str, toy: ModuleType, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(str(toy.__file__)).parent
    (folder / "old.py").write_text("import numpy\n\nnumpy.object0\n")
    monkeypatch.setattr(application, "_HOST", ("toyhost.user", f"toyhost.{module}"))
    message = rf"toyhost\.{module} must be importable, got {error}"
    with pytest.raises(PatchError, match=message):
        apply(entry("area"), replace=negate)
    monkeypatch.setenv("ANYBEV_PATCHES_OFF", "toy-head-scale")
    with pytest.raises(PatchError, match=r"\(switched off: toy-head-scale\); the host stack"):
        apply(entry("area"), method("scale"), replace=negate)
    assert toy.area(2, 3) == 6
