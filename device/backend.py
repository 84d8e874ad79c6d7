"""What a machine can do: one frozen record a backend, chosen by environment or by probing."""

from __future__ import annotations

import enum
import importlib
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from anybev import envs


class Capability(enum.Enum):
    """What callers may ask a backend for instead of asking for its name."""

    GRAD_SCALER = "grad_scaler"  # float16 training with loss scaling
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"
    DETERMINISTIC = "deterministic"  # every operator repeats bit for bit
    PEAK_MEMORY_RESET = "peak_memory_reset"
    INDEXED = "indexed"  # devices are numbered and each process takes one
    NORM_ROWS_IN_FLOAT32 = "norm_rows_in_float32"  # batch norm of (N, C) in mixed precision


class ProbeState(enum.Enum):
    """Outcome of looking for a backend: there, not there, or there and broken."""

    AVAILABLE = "available"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True)
class Probe:
    """Result of a probe and, in words, why.

    Attributes:
        state: available, absent or broken.
        detail: device name where there is one, else the reason.
        devices: number of devices that this process sees.
    """

    state: ProbeState
    detail: str
    devices: int = 0


@dataclass(frozen=True)
class Backend:
    """Facts about one kind of device and the few calls that differ between kinds.

    Attributes:
        name: ``cpu``, ``cuda`` or ``npu``.
        device_type: torch's word for it.
        dispatch_key: key under which its kernels are registered.
        collective: ``torch.distributed`` backend string.
        visible_devices_variable: environment variable that hides devices, or "".
        amp_dtype: dtype of autocast unless a user chooses.
        capabilities: what it can do.
    """

    name: str
    device_type: str
    dispatch_key: str
    collective: str
    visible_devices_variable: str
    amp_dtype: torch.dtype
    capabilities: frozenset[Capability]

    @property
    def _module(self) -> ModuleType:
        return importlib.import_module(f"anybev.device.{self.name}")

    def probe(self) -> Probe:
        """Look for the device without raising."""
        result: Probe = self._module.probe()
        return result

    def device(self, local_rank: int = 0) -> torch.device:
        """The device of a process with this rank on its node."""
        if Capability.INDEXED in self.capabilities:
            return torch.device(self.device_type, local_rank)
        return torch.device(self.device_type)

    def prepare(self) -> None:
        """Set what a training on this device wants, before its first tensor; see ``settings``."""
        self._module.prepare()

    def settings(self) -> list[dict[str, str]]:
        """What a training sets on this device: name, kind, default, set, why and source of each."""
        facts: list[dict[str, str]] = self._module.training_settings()
        return facts

    def fused_optimizer(self, name: str) -> type[torch.optim.Optimizer] | None:
        """The device's own optimizer of one kernel with the mathematics of torch's ``name``."""
        found: type[torch.optim.Optimizer] | None = self._module.fused_optimizer(name)
        return found

    def choose_device(self, local_rank: int) -> None:
        """Make the device of a process with this rank the current one."""
        self._module.set_device(local_rank)

    def synchronize(self) -> None:
        """Wait until everything queued on the current device has run."""
        self._module.synchronize()

    def peak_memory_mib(self) -> float:
        """Most memory held so far: of the process on CPU, of the allocator elsewhere (MiB)."""
        return float(self._module.peak_memory_bytes()) / 2**20

    def reset_peak_memory(self) -> None:
        """Start a new peak where the backend can (see ``Capability.PEAK_MEMORY_RESET``)."""
        self._module.reset_peak_memory()

    def fast_amp(self) -> bool:
        """Whether arithmetic in ``amp_dtype`` is faster here than in float32."""
        return bool(self._module.fast_amp())

    def seed(self, seed: int) -> None:
        """Seed Python, NumPy and torch, on the host and on every device of this kind."""
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party transforms draw from it
        torch.manual_seed(seed)

    def rng_state(self) -> Tensor:
        """State of the current device's generator: uint8, on the CPU."""
        state: Tensor = self._module.rng_state()
        return state

    def set_rng_state(self, state: Tensor) -> None:
        """Restore what ``rng_state`` gave on a device of this kind."""
        self._module.set_rng_state(state)

    def autocast(
        self, enabled: bool = True, dtype: torch.dtype | None = None
    ) -> AbstractContextManager[None]:
        """Mixed precision on this device, in ``dtype`` or the backend's own."""
        context: AbstractContextManager[None] = torch.autocast(
            self.device_type, dtype=dtype or self.amp_dtype, enabled=enabled
        )
        return context


def get_backend(name: str) -> Backend:
    """The record of ``cpu``, ``cuda`` or ``npu``, whether or not the device is there.

    Raises:
        ValueError: another name.
    """
    if name not in envs.BACKENDS:
        raise ValueError(f"backend: name must be one of {', '.join(envs.BACKENDS)}, got {name!r}")
    backend: Backend = importlib.import_module(f"anybev.device.{name}").BACKEND
    return backend


def widest_float(device: torch.device) -> torch.dtype:
    """Float64, or float32 on a device that has no float64."""
    return _widest_float(device.type)


@cache
def _widest_float(device_type: str) -> torch.dtype:
    known = device_type in envs.BACKENDS
    has = known and Capability.FLOAT64 in get_backend(device_type).capabilities
    return torch.float64 if has else torch.float32


def current_backend() -> Backend:
    """The backend this process works on: ``ANYBEV_BACKEND``, else npu, cuda, cpu as found.

    Raises:
        RuntimeError: the backend asked for is absent, or a driver is installed but broken.
    """
    return _select(envs.backend())


@cache
def _select(forced: str | None) -> Backend:
    names = (forced,) if forced else ("npu", "cuda", "cpu")
    for name in names:
        backend = get_backend(name)
        probe = backend.probe()
        if probe.state is ProbeState.AVAILABLE:
            return backend
        if probe.state is ProbeState.BROKEN:
            raise envs.MachineError(
                f"backend {name}: driver must work, got: {probe.detail}; repair it or set "
                "ANYBEV_BACKEND=cpu"
            )
    raise envs.MachineError(
        f"backend: ANYBEV_BACKEND={forced} must be present on this machine, got: {probe.detail}"
    )
