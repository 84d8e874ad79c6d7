"""The NVIDIA backend: NCCL, float16 autocast with loss scaling."""

import os

import torch
from torch import Tensor

from anybev.device.backend import Backend, Capability, Probe, ProbeState

BACKEND = Backend(
    name="cuda",
    device_type="cuda",
    dispatch_key="CUDA",
    collective="nccl",
    visible_devices_variable="CUDA_VISIBLE_DEVICES",
    amp_dtype=torch.float16,
    capabilities=frozenset(
        {
            Capability.GRAD_SCALER,
            Capability.BFLOAT16,
            Capability.FLOAT64,
            Capability.PEAK_MEMORY_RESET,
            Capability.INDEXED,
        }
    ),
)


def probe() -> Probe:
    """Absent without a CUDA build or a driver; broken when the driver is there but fails."""
    if torch.version.cuda is None:
        return Probe(ProbeState.ABSENT, f"torch {torch.__version__} is built without CUDA")
    if not os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/dxg"):
        return Probe(ProbeState.ABSENT, "no NVIDIA device on this machine")
    if os.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in ("", "-1"):
        return Probe(ProbeState.ABSENT, "CUDA_VISIBLE_DEVICES hides every device")
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
        name = torch.cuda.get_device_name(0)
    except (RuntimeError, AssertionError) as error:
        return Probe(ProbeState.BROKEN, str(error).splitlines()[0])
    return Probe(ProbeState.AVAILABLE, name, devices=count)


def prepare() -> None:
    """Nothing to set."""


def fused_optimizer(name: str) -> type[torch.optim.Optimizer] | None:
    """None: torch's fused AdamW steps through a skipped step, which hides it from loss scaling."""
    return None


def training_settings() -> list[dict[str, str]]:
    """None; `test/env_cuda.sh` holds what launchers set."""
    return []


def set_device(index: int) -> None:
    """Choose this thread's device."""
    torch.cuda.set_device(index)


def synchronize() -> None:
    """Wait for the current device."""
    torch.cuda.synchronize()


def peak_memory_bytes() -> int:
    """Most bytes held by tensors since the last reset."""
    return torch.cuda.max_memory_allocated()


def reset_peak_memory() -> None:
    """Start a new peak."""
    torch.cuda.reset_peak_memory_stats()


def rng_state() -> Tensor:
    """State of the current device's generator."""
    state: Tensor = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Tensor) -> None:
    """Restore what ``rng_state`` gave."""
    torch.cuda.set_rng_state(state)


def fast_amp() -> bool:
    """Tensor units multiply float16 faster than float32."""
    return True
