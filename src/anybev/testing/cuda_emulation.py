"""The CUDA kernels compiled for the processor, thread for thread, so that tests can run them.

``build()`` compiles ``csrc/ops/cuda`` with the headers of ``csrc/emulation`` in place of CUDA's;
the library answers for the CPU when ``ANYBEV_NATIVE_LIBRARY`` names it. See csrc/emulation/README.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from anybev import envs

_ROOT = Path(__file__).resolve().parents[3]
_FLAGS = [
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-fno-strict-aliasing",
]
_FLAGS += ["-Wno-unused-parameter", "-Wno-unknown-pragmas", "-fvisibility=hidden"]
# What the processor forgives and a GPU does not stops the program: a vector loaded from an odd
# address, a shift by a word's width.
CHECKS = ("-fsanitize=alignment,shift-exponent", "-fsanitize-undefined-trap-on-error")
_FLAGS += CHECKS
_FLAGS += ["-U_FORTIFY_SOURCE"]  # its longjmp check takes another fiber's stack for damage


def build(folder: Path | None = None) -> Path:
    """Compile what has changed and return the library.

    Args:
        folder: where objects are kept; by default in the build folder of the source tree.

    Raises:
        MachineError: this is an installed package, or there is no compiler.
        subprocess.CalledProcessError: a source does not compile; the compiler has said why.
    """
    csrc = _ROOT / "csrc"
    if not csrc.is_dir():
        raise envs.MachineError(f"emulated CUDA kernels: sources must be in {csrc}, got none")
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise envs.MachineError("emulated CUDA kernels: a C++ compiler must be on PATH, got none")
    folder = folder or _ROOT / "build" / f"emulation-{sysconfig.get_platform()}"
    folder.mkdir(parents=True, exist_ok=True)
    torch_root = Path(torch.__file__).parent
    flags = [*_FLAGS, f"-I{csrc / 'emulation'}", f"-I{csrc}", f"-isystem{torch_root / 'include'}"]
    sources = sorted(csrc.glob("ops/cuda/*.cu")) + sorted(csrc.glob("ops/cuda/*.cpp"))
    sources += sorted(csrc.glob("emulation/*.cpp"))
    headers = sorted([*csrc.glob("**/*.h"), *csrc.glob("emulation/**/*.cuh")])
    common = _digest([compiler, torch.__version__, *flags], headers)
    library = folder / "_C_cuda_emulated.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prelude = _precompile(compiler, flags, common, folder)

        def compile_one(source: Path) -> Path:
            binding = source.match("ops/cuda/*.cpp")
            extra = ["-include", str(prelude)] if binding else []
            return _compile([compiler, *flags, *extra], source, common, folder)

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            objects = list(pool.map(compile_one, sources))
        if any(o.stat().st_mtime > _built_at(library) for o in objects):
            link = [compiler, "-shared", *map(str, objects), "-o", str(library)]
            link += [f"-L{torch_root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
            subprocess.run(link, check=True)
    return library


def _digest(words: Sequence[str], files: Sequence[Path]) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _built_at(library: Path) -> float:
    return library.stat().st_mtime if library.exists() else 0.0


def _precompile(compiler: str, flags: Sequence[str], common: str, folder: Path) -> Path:
    """The header that holds what every binding includes: torch's are most of a binding's time."""
    header = folder / "prelude.h"
    made, stamp = folder / "prelude.h.gch", folder / "prelude.sha256"
    if not (made.exists() and stamp.exists() and stamp.read_text() == common):
        header.write_text('#include "ops/cuda/binding.h"\n#include <ATen/Dispatch.h>\n')
        command = [compiler, *flags, "-x", "c++-header", str(header), "-o", str(made)]
        subprocess.run(command, check=True)
        stamp.write_text(common)
    return header


def _compile(command: Sequence[str], source: Path, common: str, folder: Path) -> Path:
    """The object file of a source, compiled anew when the source or any header has changed."""
    target = folder / f"{source.name}.o"
    stamp = target.with_suffix(".sha256")
    digest = _digest([common, *command], [source])
    if not (target.exists() and stamp.exists() and stamp.read_text() == digest):
        subprocess.run([*command, "-x", "c++", "-c", str(source), "-o", str(target)], check=True)
        stamp.write_text(digest)
    return target


def main() -> None:
    """Build, and print where the library is."""
    try:
        print(build())
    except (envs.MachineError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
