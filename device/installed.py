"""What is installed for a backend: versions, the chip, and combinations known not to work.

Nothing here needs the device, so that a broken installation can still be described. The rules read
the facts alone; their sources are the packages' own metadata.
"""

import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from anybev import envs
from anybev.device import cuda_spconv
from anybev.device.backend import Backend
from anybev.device.npu import adapters
from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops import _native

Facts = dict[str, str]

UNKNOWN = "unknown"
_SIMULATION = "anybev.testing.simnpu"
# torch releases that mx-driving 26.2 accepts: torch>=2.6.0,<2.9.0; its wheels are cp39 to cp311.
_MX_TORCH = ((2, 6), (2, 9))
_MX_PYTHON = (3, 11)
# Where the Ascend toolkit and driver write their versions.
_TOOLKIT_HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
_TOOLKIT_DEFAULT = "/usr/local/Ascend/ascend-toolkit/latest"
_TOOLKIT_FILES = ("version.cfg", "*-linux/ascend_toolkit_install.info", "version.info")
_ASCEND_DRIVER = Path("/usr/local/Ascend/driver/version.info")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"\d+(\.\w+)+")


def simulated(backend: Backend) -> str:
    """What stands here for the hardware, in tests: then nothing seen is evidence; "" for hardware.

    Args:
        backend: present on this machine.
    """
    if backend.name == "npu" and any(name.startswith(_SIMULATION) for name in sys.modules):
        return "a simulated device"
    if envs.native_library() is not None:
        return "kernels of ANYBEV_NATIVE_LIBRARY"
    return ""


def facts(backend: Backend) -> Facts:
    """Versions and properties that decide whether the backend works, as text.

    Args:
        backend: present on this machine.

    Returns:
        Names and values; ``unknown`` where the machine does not tell, "" where nothing is
        installed.
    """
    common = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": backend.probe().detail,
        "devices": str(backend.probe().devices),
        "compiled kernels": _native.load() or "loaded",
        "float32 products": "rounded" if rounds_float32(backend) else "full precision",
    }
    return common | {"cpu": _cpu, "cuda": _cuda, "npu": _npu}[backend.name]()


def _switches(backend: Backend) -> list[tuple[Any, str]]:
    """Objects and attributes that let products of float32 use fewer bits (TF32, HF32)."""
    if backend.name == "cuda":
        return [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
    if backend.name == "npu":
        runtime = getattr(torch, "npu", None)
        places = (getattr(runtime, name, None) for name in ("conv", "matmul"))
        return [(p, "allow_hf32") for p in places if hasattr(p, "allow_hf32")]
    return []


def rounds_float32(backend: Backend) -> bool:
    """Whether torch is set to compute some products of float32 with fewer bits (TF32, HF32)."""
    return any(bool(getattr(place, name)) for place, name in _switches(backend))


@contextmanager
def full_float32(backend: Backend) -> Iterator[None]:
    """Products of float32 use all their bits inside the block."""
    switches = _switches(backend)
    before = [bool(getattr(place, name)) for place, name in switches]
    try:
        for place, name in switches:
            setattr(place, name, False)
        yield
    finally:
        for (place, name), value in zip(switches, before, strict=True):
            setattr(place, name, value)


def refusal(backend: Backend, implementation: str, dtype: torch.dtype) -> str:
    """Why the kernel that a user chose takes no tensors of ``dtype``, else "".

    Args:
        backend: whose kernel it is.
        implementation: of the operator there; on CUDA ``vendor`` is spconv.
        dtype: of floating tensors.
    """
    if backend.name == "cuda" and implementation == "vendor" and dtype not in cuda_spconv.DTYPES:
        return "spconv takes float16 and float32 alone"
    return ""


@contextmanager
def told_fallbacks() -> Iterator[list[str]]:
    """Collects what a vendor's kernels leave to the reference inside the block, and why.

    Each limit is told once a process; here it is told again. Other warnings are not shown.
    """
    told: list[str] = []
    adapters.tell_again()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    told.extend(str(w.message) for w in caught if issubclass(w.category, KernelFallbackWarning))


def complaints(name: str, found: Mapping[str, str]) -> list[str]:
    """What is wrong with the versions and the chip of a backend; nothing when all is well.

    Args:
        name: of the backend.
        found: its ``facts``.
    """
    rules = {"cpu": _cpu_rules, "cuda": _cuda_rules, "npu": _npu_rules}
    return rules[name](found)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _version_in(path: Path) -> str:
    """The first version number in a small text file, ``unknown`` without one."""
    try:
        found = _VERSION.search(path.read_text(errors="replace")[:4096])
    except OSError:
        return UNKNOWN
    return found.group() if found else UNKNOWN


def _release(version: str) -> tuple[int, int] | None:
    """Major and minor number."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _cpu() -> Facts:
    return {"instruction set": torch.backends.cpu.get_cpu_capability()}


def _cpu_rules(found: Mapping[str, str]) -> list[str]:
    return _torch_rules(found)


def _torch_rules(found: Mapping[str, str]) -> list[str]:
    if (_release(found["torch"]) or (0, 0)) < (2, 6):
        return [f"torch must be at least 2.6, got {found['torch']}"]
    return []


def _cuda() -> Facts:
    count = torch.cuda.device_count()
    chips = {torch.cuda.get_device_capability(index) for index in range(count)}
    nccl = getattr(torch.cuda.nccl, "version", lambda: ())()
    return {
        "CUDA kernels": _native.load_cuda() or "loaded",
        "CUDA of torch": torch.version.cuda or "",
        "cuDNN": str(torch.backends.cudnn.version() or ""),
        "NCCL": ".".join(map(str, nccl)),
        "driver": _version_in(_NVIDIA_DRIVER),
        "chips": " ".join(f"sm_{major}{minor}" for major, minor in sorted(chips)),
        "built for": " ".join(torch.cuda.get_arch_list()),
    }


def _runs_on(chip: str, built: list[str]) -> bool:
    """Whether code for ``built`` (sm_80, compute_90 ...) runs on ``chip`` (sm_86)."""
    number = int(re.sub(r"\D", "", chip))
    for entry in built:
        target = int(re.sub(r"\D", "", entry) or 0)
        binary = entry.startswith("sm_") and target // 10 == number // 10 and target <= number
        if binary or (entry.startswith("compute_") and target <= number):
            return True
    return False


def _cuda_rules(found: Mapping[str, str]) -> list[str]:
    built = found["built for"].split()
    wrong = [
        f"torch must be built for {chip}, got {' '.join(built)}; try a torch of another CUDA"
        for chip in found["chips"].split()
        if built and not _runs_on(chip, built)
    ]
    return _torch_rules(found) + wrong


def _toolkit_version() -> str:
    homes = [os.environ.get(name, "") for name in _TOOLKIT_HOMES]
    for home in [*filter(None, homes), _TOOLKIT_DEFAULT]:
        for pattern in _TOOLKIT_FILES:
            for path in sorted(Path(home).glob(pattern)):
                return _version_in(path)
    return UNKNOWN


def _npu() -> Facts:
    return {
        "torch_npu": _installed("torch-npu"),
        "mx_driving": _installed("mx-driving"),
        "mx_driving for A5": _installed("mx-driving-a5"),
        "CANN": _toolkit_version(),
        "driver": _version_in(_ASCEND_DRIVER),
    }


def _npu_rules(found: Mapping[str, str]) -> list[str]:
    wrong = _torch_rules(found)
    torch_release, npu_release = _release(found["torch"]), _release(found["torch_npu"])
    if npu_release and npu_release != torch_release:
        wrong.append(
            f"torch_npu must be of torch's release, got torch_npu {found['torch_npu']} with torch "
            f"{found['torch']}; each torch-npu pins its torch"
        )
    mx_driving = found["mx_driving"]
    if mx_driving and found["mx_driving for A5"]:
        wrong.append(
            "mx_driving must be installed once, got mx-driving and mx-driving-a5, which share a "
            "name; uninstall the one for the other chip"
        )
    low, high = _MX_TORCH
    if mx_driving and torch_release and not low <= torch_release < high:
        wrong.append(
            f"mx_driving {mx_driving} must have torch 2.6 to 2.8, got torch {found['torch']}"
        )
    if mx_driving and (_release(found["python"]) or (0, 0)) > _MX_PYTHON:
        wrong.append(f"mx_driving must have Python 3.9 to 3.11, got {found['python']}")
    if mx_driving.endswith("26.2.0.post1"):
        wrong.append("mx_driving 26.2.0.post1 is built for torch 2.1; try 26.2.0.post2")
    if "310P" in found["device"]:
        wrong.append(
            f"device must be of the Atlas A2 or A3 family to train, got {found['device']}: "
            "mx_driving has kernels of 3 operators for it"
        )
    return wrong
