"""Builds ``anybev/_C``: the compiled operators.

The compiled part is optional. Without torch in the environment, without a C++ compiler, or with
``ANYBEV_BUILD=0`` the package installs on its plain-PyTorch references and ``anybev env`` says so.
``anybev/_C_cuda``, the CUDA kernels, is built where nvcc is and torch is a CUDA build, or anywhere
nvcc is with ``ANYBEV_BUILD_CUDA=1``.
"""

import os
import platform
import shutil
import subprocess
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


# Graphics processors that the CUDA kernels are compiled for; newer ones compile the last one's PTX.
CUDA_ARCHITECTURES = ("80", "90", "100")


def check_links() -> None:
    """Stop when a stage under src/anybev is not a directory: the package would lack it silently."""
    broken = [s for s in STAGES if not (ROOT / "src" / "anybev" / s).is_dir()]
    if broken:
        sys.exit(
            f"src/anybev/{broken[0]} must be a link to ../../{broken[0]}, got a plain file: this "
            "copy lost its symbolic links; clone with `git clone -c core.symlinks=true`, or unpack "
            "the archive with tar"
        )


def include_dirs(torch_root: Path) -> list[str]:
    """Headers of the package and of torch."""
    torch_include = torch_root / "include"
    api = torch_include / "torch" / "csrc" / "api" / "include"
    return [str(ROOT / "csrc"), str(torch_include), str(api)]


def sources(*patterns: str) -> list[str]:
    """Files under csrc, by pattern."""
    return sorted(str(p.relative_to(ROOT)) for f in patterns for p in ROOT.glob(f"csrc/{f}"))


def nvcc() -> str | None:
    """The CUDA compiler, of CUDA_HOME where that is set."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home) / "bin") if home else None)


def cuda_home() -> Path:
    """Folder of the CUDA toolkit, as nvcc itself says: what is on PATH may be a wrapper."""
    command = [str(nvcc()), "--dryrun", "-c", "any.cu"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    tops = [line.partition("TOP=")[2] for line in said.splitlines() if "TOP=" in line]
    if not tops:
        sys.exit(f"{command[0]} --dryrun must name its folder as TOP=..., got {said[:200]!r}")
    return Path(tops[0].strip()).resolve()


def wants_cuda(torch_is_cuda: bool) -> bool:
    """Whether the CUDA kernels are built: with a CUDA torch, or when ANYBEV_BUILD_CUDA says so."""
    asked = os.environ.get("ANYBEV_BUILD_CUDA", "").strip() or "auto"
    if asked not in ("0", "1", "only", "auto"):
        sys.exit(f"ANYBEV_BUILD_CUDA must be 0, 1, only or auto, got {asked!r}")
    if asked == "0" or (asked == "auto" and not torch_is_cuda):
        return False
    if nvcc() is None:
        if asked != "auto":
            place = "on PATH or in CUDA_HOME/bin"
            sys.exit(f"ANYBEV_BUILD_CUDA={asked}: nvcc must be {place}, got neither")
        print("anybev: no nvcc; CUDA kernels are left out", file=sys.stderr)
        return False
    return True


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
    common = {
        "include_dirs": include_dirs(torch_root),
        "depends": sources("**/*.h"),
        "language": "c++",
    }
    libraries = ["c10", "torch_cpu", "torch"]
    folders = [str(torch_root / "lib")]
    # csrc/host works on pictures in the data path; csrc/benchmark holds what benchmarks compare
    # with, no model calls it.
    files = sources("ops/cpu/*.cpp", "host/*.cpp", "benchmark/*.cpp")
    found = [
        Extension("anybev._C", files, library_dirs=folders, libraries=libraries, **common),
    ]
    if os.environ.get("ANYBEV_BUILD_CUDA", "").strip() == "only":
        found.clear()
    if wants_cuda(torch.version.cuda is not None):
        home = cuda_home()
        common["include_dirs"] = [*common["include_dirs"], str(home / "include")]
        # The runtime is linked in: torch's may be another minor version. Both work on the device's
        # one primary context.
        libraries = [*libraries, "cudart_static", "dl", "rt", "pthread"]
        folders = [*folders, str(home / "lib64"), str(home / "targets" / "x86_64-linux" / "lib")]
        files = sources("ops/cuda/*.cu", "ops/cuda/*.cpp")
        found.append(
            Extension("anybev._C_cuda", files, library_dirs=folders, libraries=libraries, **common)
        )
    return found


def is_stale(target: Path) -> bool:
    """Whether an object file is older than a file it was made from, as the compiler listed them."""
    listing = target.with_suffix(".d")
    if not (target.exists() and listing.exists()):
        return True
    files = listing.read_text().partition(":")[2].replace("\\\n", " ").split()
    built = target.stat().st_mtime
    return any(not Path(f).exists() or Path(f).stat().st_mtime >= built for f in files)


def is_ours(folder: str) -> bool:
    """Whether headers in the folder are the package's own, whose warnings count."""
    return Path(folder).is_relative_to(ROOT / "csrc")


def host_flags(include_dirs: list[str]) -> list[str]:
    """Flags of the C++ compiler."""
    # -ffp-contract=off: a fused multiply-add in key and cell arithmetic moves points between
    # cells; kernels that want FMAs use intrinsics. OpenMP's runtime is the one torch loads, so
    # nothing is linked for it.
    flags = ["-std=c++20", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=off", "-Wall", "-Wextra"]
    flags += ["-Wno-unused-parameter", "-fvisibility=hidden", "-DNDEBUG"]
    return flags + [f"-I{d}" if is_ours(d) else f"-isystem{d}" for d in include_dirs]


def cuda_architectures() -> list[str]:
    """``ANYBEV_CUDA_ARCHS``, or those of the usual ones that this nvcc knows."""
    chosen = os.environ.get("ANYBEV_CUDA_ARCHS", "").strip()
    archs = chosen.split(";") if chosen else list(CUDA_ARCHITECTURES)
    listed = subprocess.run([str(nvcc()), "--list-gpu-arch"], capture_output=True, text=True)
    known = [a for a in archs if f"compute_{a}" in listed.stdout.split()]
    if not known or (chosen and known != archs):
        sys.exit(
            f"ANYBEV_CUDA_ARCHS must be numbers such as 80;90 that {nvcc()} knows "
            f"({' '.join(listed.stdout.split())}), got {';'.join(archs)}"
        )
    return known


def cuda_flags(include_dirs: list[str]) -> list[str]:
    """Flags of nvcc: every architecture's code, and PTX of the last for newer ones."""
    archs = cuda_architectures()
    # --fmad=false for the same reason as -ffp-contract=off.
    flags = ["-std=c++20", "-O3", "--fmad=false", "--expt-relaxed-constexpr", "-DNDEBUG"]
    flags += ["-Xcompiler=-fPIC,-fvisibility=hidden,-Wall"]
    flags += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    flags += [f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]
    return flags + [f"-I{d}" for d in include_dirs if is_ours(d)]


class BuildKernels(build_ext):
    """Compiles each source with the flags of its instruction set, ``MAX_JOBS`` at a time."""

    def build_extension(self, ext: Extension) -> None:
        compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
        folder = Path(self.build_temp) / "kernels" / ext.name.rpartition(".")[2]
        if any(source.endswith(".cu") for source in ext.sources):
            # Objects of other architectures stay apart.
            folder /= "-".join(cuda_architectures())
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(source: str) -> str:
            target = folder / (Path(source).name + ".o")
            if not is_stale(target):
                return str(target)
            if source.endswith(".cu"):
                command = [str(nvcc()), *cuda_flags(ext.include_dirs)]
            else:
                isa = next((f for s, f in ISA_FLAGS.items() if Path(source).stem.endswith(s)), [])
                # Elsewhere these files are empty: their code stands behind __x86_64__.
                isa = isa if platform.machine().lower() in ("x86_64", "amd64") else []
                command = [compiler, *host_flags(ext.include_dirs), *isa]
            self.spawn([*command, "-MMD", "-c", source, "-o", str(target)])
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
    package_data={
        "anybev": [
            "py.typed",
            "configs/**/*.py",
            "patches/*.toml",
            "testing/fake_mx_driving/*.json",
            "testing/simnpu/native/*",
        ]
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildKernels},
)
