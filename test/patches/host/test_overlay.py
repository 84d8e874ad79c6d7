import math
from types import ModuleType

import pytest

from anybev.patches.host._overlay import Facade, with_globals

LIMIT = 3


def area(radius: float, *, times: int = 2) -> float:
    def inner() -> float:
        return math.pi * radius * times

    return inner() + LIMIT


class Base:
    def size(self) -> float:
        return 1.0


class Child(Base):
    def size(self) -> float:
        return super().size() + math.pi


def test_function_and_functions_inside_it_see_other_globals() -> None:
    changed = with_globals(area, math=Facade(math, pi=10.0))
    assert changed(1.0) == 23.0
    assert changed(1.0, times=1) == 13.0
    assert area(1.0) == 2 * math.pi + 3
    assert math.pi < 4


def test_other_globals_stay_those_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = with_globals(area, math=Facade(math, pi=10.0))
    monkeypatch.setitem(area.__globals__, "LIMIT", 100)
    assert changed(1.0) == 120.0
    assert len(changed.__name__) == 4
    assert (changed.__module__, changed.__qualname__) == (area.__module__, area.__qualname__)


def test_builtins_and_super_work_in_the_copy() -> None:
    changed = with_globals(Child.size, math=Facade(math, pi=10.0))
    assert changed(Child()) == 11.0


def test_unknown_global_is_a_name_error() -> None:
    code = compile("def f():\n    return nothing_of_the_kind", "<test>", "exec")
    module: dict[str, object] = {}
    exec(code, module)
    with pytest.raises(NameError, match="nothing_of_the_kind"):
        with_globals(module["f"], math=math)()  # type: ignore[arg-type]


def test_facade_is_the_module_but_for_what_it_changes() -> None:
    facade = Facade(math, pi=3)
    assert isinstance(facade, ModuleType)
    assert facade.pi == 3
    assert facade.sin is math.sin
    with pytest.raises(AttributeError, match="sinus"):
        _ = facade.sinus


def test_builtin_function_is_refused() -> None:
    with pytest.raises(TypeError, match="a plain function is needed"):
        with_globals(len, math=math)
