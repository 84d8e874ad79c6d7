"""The simulated device is compiled once, by whichever process comes first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anybev.envs import MachineError
from anybev.testing.simnpu import _build


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One small source in place of the device's, and an empty cache."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "one.cpp").write_text("int one() { return 1; }\n")
    monkeypatch.setattr(_build, "_FOLDER", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_second_build_takes_the_first_one_s(sources: Path) -> None:
    built = _build.library()
    time = built.stat().st_mtime_ns
    assert built.parent == sources.parent / "cache" / "anybev" / "simnpu"
    assert _build.library() == built
    assert built.stat().st_mtime_ns == time
    (sources / "one.cpp").write_text("int one() { return 2; }\n")
    assert _build.library() != built


def test_hosts_of_two_kinds_share_a_home(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = _build.library()
    monkeypatch.setattr(_build.platform, "machine", lambda: "aarch64-other")
    assert _build.library() != here


def test_two_processes_build_once(sources: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    compiler = tmp_path / "counting"
    compiler.write_text(f'#!/bin/sh\necho "$$" >> {log}\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    program = (
        "import sys\nfrom pathlib import Path\nfrom anybev.testing.simnpu import _build\n"
        "_build._FOLDER = Path(sys.argv[1])\nprint(_build.library())\n"
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path / "both"), "CXX": str(compiler)}
    command = [sys.executable, "-c", program, str(sources)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert outputs[0] == outputs[1] != ""
    assert len(log.read_text().split()) == 2  # one source, one link
    assert sorted(p.suffix for p in Path(outputs[0].strip()).parent.iterdir()) == [".lock", ".so"]


def test_without_a_compiler_it_says_so(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MachineError, match="must be on PATH, got none named no-such-compiler"):
        _build.library()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MachineError, match=r"got none named g\+\+, c\+\+ or clang\+\+"):
        _build.library()


def test_what_the_compiler_says_is_quoted(sources: Path) -> None:
    (sources / "one.cpp").write_text("int one( { return 1; }\n")
    with pytest.raises(MachineError, match=r"must compile .*got status 1: .*one\.cpp:1:\d+: error"):
        _build.library()
    assert not list(_build.cache_folder().glob("*.so"))


def test_a_cache_that_cannot_be_written_is_named(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MachineError, match=r"file/anybev/simnpu must be writable, got .*; try XDG"):
        _build.library()
