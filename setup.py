"""Builds ``anybev/_C``: the compiled operators.

The compiled part is optional. Without torch in the environment, without a C++ compiler, or with
``ANYBEV_BUILD=0`` the package installs on its plain-PyTorch references and ``anybev env`` says so.
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
STAGES = (
    "benchmark",
    "configs",
    "datasets",
    "device",
    "engine",
    "evaluation",
    "models",
    "patches",
    "reporting",
)

# Instruction sets are chosen at run time: a file named *_avx2.cpp or *_avx512.cpp is compiled for
# that set and called only where the processor has it; every other file is plain x86-64 or ARM.
ISA_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx512vpopcntdq",
        "-mavx512bf16",
        "-mfma",
        "-mprefer-vector-width=512",
    ],
}


def check_links() -> None:
    """Stop when a stage under src/anybev is not a directory: the package would lack it silently."""
    broken = [s for s in STAGES if not (ROOT / "src" / "anybev" / s).is_dir()]
    if broken:
        sys.exit(
            f"src/anybev/{broken[0]} must be a link to ../../{broken[0]}, got a plain file: this "
            "copy lost its symbolic links; clone with `git clone -c core.symlinks=true`, or unpack "
            "the archive with tar"
        )


def extensions() -> list[Extension]:
    """The compiled operators, or none when they cannot be built here."""
    if os.environ.get("ANYBEV_BUILD", "1") == "0":
        return []
    try:
        import torch
    except ImportError:
        print("anybev: torch is not installed; compiled operators are left out", file=sys.stderr)
        return []
    if not (shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")):
        print("anybev: no C++ compiler; compiled operators are left out", file=sys.stderr)
        return []
    torch_root = Path(torch.__file__).parent
    # csrc/host works on pictures in the data path; csrc/benchmark holds what benchmarks compare
    # with, no model calls it.
    folders = ("ops/cpu", "host", "benchmark")
    sources = sorted(
        str(p.relative_to(ROOT)) for folder in folders for p in ROOT.glob(f"csrc/{folder}/*.cpp")
    )
    return [
        Extension(
            "anybev._C",
            sources,
            include_dirs=[
                str(ROOT / "csrc"),
                str(torch_root / "include"),
                str(torch_root / "include" / "torch" / "csrc" / "api" / "include"),
            ],
            library_dirs=[str(torch_root / "lib")],
            libraries=["c10", "torch_cpu", "torch"],
            depends=[str(p) for p in ROOT.glob("csrc/**/*.h")],
            language="c++",
        )
    ]


def is_stale(target: Path) -> bool:
    """Whether an object file is older than a file it was made from, as the compiler listed them."""
    listing = target.with_suffix(".d")
    if not (target.exists() and listing.exists()):
        return True
    files = listing.read_text().partition(":")[2].replace("\\\n", " ").split()
    built = target.stat().st_mtime
    return any(not Path(f).exists() or Path(f).stat().st_mtime >= built for f in files)


class BuildKernels(build_ext):
    """Compiles each source with the flags of its instruction set, ``MAX_JOBS`` at a time."""

    def build_extension(self, ext: Extension) -> None:
        compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
        # -ffp-contract=off: a fused multiply-add in key and cell arithmetic moves points between
        # cells; kernels that want FMAs use intrinsics. OpenMP's runtime is the one torch loads, so
        # nothing is linked for it.
        base = ["-std=c++20", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=off", "-Wall", "-Wextra"]
        base += ["-Wno-unused-parameter", "-fvisibility=hidden", "-DNDEBUG"]
        base += [f"-isystem{d}" if "torch" in d else f"-I{d}" for d in ext.include_dirs]
        folder = Path(self.build_temp) / "kernels"
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(source: str) -> str:
            target = folder / (Path(source).stem + ".o")
            if is_stale(target):
                isa = next((f for s, f in ISA_FLAGS.items() if Path(source).stem.endswith(s)), [])
                # Elsewhere these files are empty: their code stands behind __x86_64__.
                flags = isa if platform.machine().lower() in ("x86_64", "amd64") else []
                self.spawn([compiler, *base, *flags, "-MMD", "-c", source, "-o", str(target)])
            return str(target)

        jobs = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(compile_one, ext.sources))
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        link = [compiler, "-shared", *objects, "-o", str(output)]
        link += [f"-L{d}" for d in ext.library_dirs] + [f"-l{name}" for name in ext.libraries]
        self.spawn(link)


check_links()
setup(
    packages=find_packages("src"),
    package_dir={"": "src"},
    package_data={"anybev": ["py.typed", "configs/**/*.py", "patches/*.toml"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildKernels},
)
