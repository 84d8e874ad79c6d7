"""The CPU backend: native kernels by instruction set, gloo, bfloat16 autocast."""

import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from anybev.device.backend import Backend, Capability, Probe, ProbeState

BACKEND = Backend(
    name="cpu",
    device_type="cpu",
    dispatch_key="CPU",
    collective="gloo",
    visible_devices_variable="",
    amp_dtype=torch.bfloat16,
    capabilities=frozenset({Capability.BFLOAT16, Capability.FLOAT64, Capability.DETERMINISTIC}),
)


def probe() -> Probe:
    """A CPU is always there; the detail names its widest vector instruction set."""
    return Probe(ProbeState.AVAILABLE, torch.backends.cpu.get_cpu_capability(), devices=1)


def prepare() -> None:
    """Nothing to set."""


def fused_optimizer(name: str) -> type[torch.optim.Optimizer] | None:
    """None: torch's own is as quick here."""
    return None


def training_settings() -> list[dict[str, str]]:
    """None."""
    return []


def set_device(index: int) -> None:
    """There is one CPU."""


def synchronize() -> None:
    """Nothing is queued on the CPU."""


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> None:
    """The kernel keeps one peak a process; it cannot be reset."""


def rng_state() -> Tensor:
    """State of the current device's generator."""
    return torch.get_rng_state()


def set_rng_state(state: Tensor) -> None:
    """Restore what ``rng_state`` gave."""
    torch.set_rng_state(state)


def fast_amp() -> bool:
    """Whether this processor multiplies bfloat16 itself; without that it is emulated, slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(f" {name}" in flags for name in ("avx512_bf16", "amx_bf16", "bf16"))
