"""What this machine is and which kernel answers each operator, as data."""

import importlib
import pkgutil
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import anybev
from anybev import envs
from anybev.device import ops
from anybev.device.backend import ProbeState, current_backend, get_backend
from anybev.device.ops import _contract, _native

_PACKAGES = (
    "numpy",
    "scipy",
    "onedl-mmengine",
    "nuscenes-devkit",
    "spconv",
    "triton",
    "torch-npu",
    "mx-driving",
)


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """Commit of the source tree that runs, ``unknown`` where it is an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # an environment's folder may lie inside another repository
        return "unknown"
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _import_operators() -> None:
    for module in pkgutil.iter_modules(ops.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"anybev.device.ops.{module.name}")


def operator_table() -> dict[str, dict[str, str]]:
    """``{operator: {backend: native | vendor | triton | reference}}`` for every public operator.

    Raises:
        ValueError: ``ANYBEV_OPS`` names something else.
    """
    _import_operators()
    known = sorted({contract.public for contract in _contract.CONTRACTS.values()})
    for name in envs.forced_implementations():
        if name not in known:
            raise ValueError(f"ANYBEV_OPS: operator must be of {', '.join(known)}, got {name!r}")
    return {
        contract.public: {name: contract.implementation(name) for name in envs.BACKENDS}
        for contract in sorted(_contract.CONTRACTS.values(), key=lambda c: c.public)
        if contract.name == contract.public
    }


def _once_installed(operator: str, backend: str) -> str:
    if operator not in _native.DECLARED[backend]:
        return "reference"
    return "vendor" if backend == "npu" else "native"


def installable_table() -> dict[str, dict[str, str]]:
    """``operator_table`` of an installation for each backend, whether or not this one is it.

    That is what ``install.sh --backend`` gives on a machine with its compiler; for npu, with
    mx_driving.
    """
    return {
        operator: {name: _once_installed(operator, name) for name in envs.BACKENDS}
        for operator in operator_table()
    }


def environment() -> dict[str, Any]:
    """Versions, backends and operators of this machine (what ``anybev env --json`` prints)."""
    probes = {name: get_backend(name).probe() for name in envs.BACKENDS}
    broken = any(p.state is ProbeState.BROKEN for p in probes.values())
    return {
        "anybev": anybev.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "backend": None if broken and not envs.backend() else current_backend().name,
        "backends": {
            name: {"state": p.state.value, "detail": p.detail, "devices": p.devices}
            for name, p in probes.items()
        },
        "settings": {name: get_backend(name).settings() for name in envs.BACKENDS},
        "kernels": _native.load() or "compiled kernels loaded",
        "ops": operator_table(),
        "installable": installable_table(),
    }
