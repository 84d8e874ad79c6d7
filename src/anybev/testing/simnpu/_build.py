"""Compiles the simulated backend once for each torch, into the user's cache."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from anybev.envs import MachineError

_FOLDER = Path(__file__).parent / "native"
_FLAGS = (
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-w",
    "-fvisibility=hidden",
    f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
)


def cache_folder() -> Path:
    """Where compiled backends are kept: ``anybev/simnpu`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "anybev" / "simnpu"


def library() -> Path:
    """The compiled backend, built when it is not in the cache; two processes build it once.

    Raises:
        MachineError: no C++ compiler, it failed, or the cache cannot be written.
    """
    files = sorted(_FOLDER.iterdir())
    machine = platform.machine()  # homes are shared by hosts of several kinds
    built_for = f"{torch.__version__} {sys.implementation.cache_tag} {machine} {_FLAGS}"
    key = hashlib.sha256(built_for.encode())
    for file in files:
        key.update(file.name.encode() + b"\0" + file.read_bytes())
    target = cache_folder() / f"simnpu-{key.hexdigest()[:16]}.so"
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_file():
                _compile([file for file in files if file.suffix == ".cpp"], target)
    except OSError as error:
        raise MachineError(
            f"simnpu: {target.parent} must be writable, got {error}; try XDG_CACHE_HOME"
        ) from error
    return target


def _compiler() -> str:
    wanted = os.environ.get("CXX", "").strip()
    for name in [wanted] if wanted else ["g++", "c++", "clang++"]:
        found = shutil.which(name)
        if found:
            return found
    raise MachineError(
        f"simnpu: a C++ compiler must be on PATH, got none named {wanted or 'g++, c++ or clang++'}"
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise MachineError(
            f"simnpu: {Path(command[0]).name} must compile the simulated device for torch "
            f"{torch.__version__}, got status {done.returncode}: " + "\n".join(errors[:5])
        )


def _compile(sources: list[Path], target: Path) -> None:
    compiler, root = _compiler(), Path(torch.__file__).parent
    include = [root / "include", root / "include" / "torch" / "csrc" / "api" / "include"]
    include.append(Path(sysconfig.get_paths()["include"]))
    flags = [*_FLAGS, *(f"-isystem{path}" for path in include)]
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)

        def compile_one(source: Path) -> str:
            made = folder / f"{source.stem}.o"
            _run([compiler, *flags, "-c", str(source), "-o", str(made)])
            return str(made)

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            objects = list(pool.map(compile_one, sources))
        linked = folder / target.name
        libraries = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
        _run([compiler, "-shared", *objects, "-o", str(linked), *libraries])
        linked.replace(target)
