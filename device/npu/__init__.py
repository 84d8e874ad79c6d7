"""The Ascend backend: torch_npu's device, HCCL beside gloo, float16 autocast.

No Ascend hardware has run this code yet: the facts come from torch_npu's public interface.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from anybev.device.backend import Backend, Capability, Probe, ProbeState
from anybev.device.npu import settings

BACKEND = Backend(
    name="npu",
    device_type="npu",
    dispatch_key="PrivateUse1",
    collective="cpu:gloo,npu:hccl",
    visible_devices_variable="ASCEND_RT_VISIBLE_DEVICES",
    amp_dtype=torch.float16,
    capabilities=frozenset(
        {
            Capability.GRAD_SCALER,
            Capability.BFLOAT16,
            Capability.PEAK_MEMORY_RESET,
            Capability.INDEXED,
        }
        | ({Capability.NORM_ROWS_IN_FLOAT32} if settings.enabled(settings.NORM_ROWS) else set())
    ),
)


def _runtime() -> Any:
    return torch.npu  # type: ignore[attr-defined]


def probe() -> Probe:
    """Absent without torch_npu or a device; broken when torch_npu is there but does not load."""
    if importlib.util.find_spec("torch_npu") is None:
        return Probe(ProbeState.ABSENT, "torch_npu is not installed")
    settings.apply()
    try:
        module: ModuleType = importlib.import_module("torch_npu")
        count = int(_runtime().device_count())
        name = str(_runtime().get_device_name(0)) if count else ""
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Probe(ProbeState.BROKEN, f"torch_npu: {str(error).splitlines()[0]}")
    if not count:
        version = getattr(module, "__version__", "?")
        return Probe(ProbeState.ABSENT, f"torch_npu {version} sees no Ascend device")
    return Probe(ProbeState.AVAILABLE, name, devices=count)


def prepare() -> None:
    """Compile no operator for a single shape; let convolutions use the device's own layout."""
    settings.apply()
    runtime = _runtime()
    runtime.set_compile_mode(jit_compile=settings.enabled(settings.JIT_COMPILE))
    runtime.config.allow_internal_format = settings.enabled(settings.INTERNAL_FORMAT)


def fused_optimizer(name: str) -> type[torch.optim.Optimizer] | None:
    """torch_npu's AdamW of one kernel, where torch_npu has it."""
    if name != "AdamW":
        return None
    try:
        module: ModuleType = importlib.import_module("torch_npu.optim")
    except ImportError:
        return None
    return getattr(module, "NpuFusedAdamW", None)


def training_settings() -> list[dict[str, str]]:
    """What a training sets on this device."""
    return settings.facts()


def set_device(index: int) -> None:
    """Choose this thread's device."""
    _runtime().set_device(index)


def synchronize() -> None:
    """Wait for the current device."""
    _runtime().synchronize()


def peak_memory_bytes() -> int:
    """Most bytes held by tensors since the last reset."""
    return int(_runtime().max_memory_allocated())


def reset_peak_memory() -> None:
    """Start a new peak."""
    _runtime().reset_peak_memory_stats()


def rng_state() -> Tensor:
    """State of the current device's generator."""
    state: Tensor = _runtime().get_rng_state()
    return state


def set_rng_state(state: Tensor) -> None:
    """Restore what ``rng_state`` gave."""
    _runtime().set_rng_state(state)


def fast_amp() -> bool:
    """Tensor units multiply float16 faster than float32."""
    return True
