"""``python -m anybev.patches SCRIPT``: patches first, then the script as Python would run it."""

import sys
from pathlib import Path

import pytest

from anybev.patches import PatchError
from anybev.patches import __main__ as command


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Remembers that patches were applied, instead of importing the host."""
    said: list[str] = []
    monkeypatch.setattr(command, "apply", lambda: said.append("patches"))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return said


def test_script_runs_as_main_with_its_arguments_and_neighbours(
    applied: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "neighbour_of_script.py").write_text("name = 'neighbour'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom neighbour_of_script import name\nprint(__name__, name, sys.argv[1:])\n"
    )
    assert command.main([str(script), "--a", "b"]) == 0
    assert applied == ["patches"]
    assert capsys.readouterr().out == "__main__ neighbour ['--a', 'b']\n"


def test_module_runs_and_keeps_its_exit_status(
    applied: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_ends.py").write_text("import sys\nsys.exit(len(sys.argv))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        command.main(["-m", "module_that_ends", "x", "y"])
    assert ended.value.code == 3
    assert applied == ["patches"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: python -m anybev.patches"),
        (["-m"], "usage: python -m anybev.patches"),
        (["--help"], "usage: python -m anybev.patches"),
        (["no/such.py"], "error: patches: no script no/such.py"),
    ],
)
def test_what_cannot_be_run_is_named(
    arguments: list[str], said: str, applied: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.startswith(said)
    assert applied == []


@pytest.mark.parametrize("module", ["module_that_is_nowhere", "json.module_that_is_nowhere"])
def test_module_that_is_nowhere_is_named(
    module: str, applied: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["-m", module]) == 2
    assert capsys.readouterr().err == f"error: patches: no module {module}\n"


@pytest.mark.parametrize(
    "error",
    [
        PatchError("patches: mmdetection3d must be installed, got none"),
        ValueError("ANYBEV_PATCHES_OFF must name patches of the ledger, got ['x']"),
    ],
)
def test_host_that_cannot_be_patched_is_one_line(
    error: Exception,
    applied: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(command, "apply", fail)
    (tmp_path / "script.py").write_text("print('ran')\n")
    assert command.main([str(tmp_path / "script.py")]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""
