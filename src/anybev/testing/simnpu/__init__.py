"""A simulated ``npu`` device: host memory behind PrivateUse1, with every habit of an accelerator.

``activate()`` makes this process one in which ``torch.device("npu")`` exists, ``torch_npu`` can be
imported and the npu is the backend that AnyBEV chooses. It shows that a program has no hidden
assumption of cuda or the CPU: tensors of different devices do not mix, an operator without a kernel
for npu is an error, every call that aten answers through the CPU is counted. It is no model of
Ascend's arithmetic, speed, memory or asynchrony. It cannot be undone: give it a process of its own
(``python -m anybev.testing.simnpu SCRIPT ...``, or ``ANYBEV_SIMULATE=npu pytest test/npu``).
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils import backend_registration

from anybev.testing.simnpu import _build, _hccl, _torch_npu, runtime
from anybev.testing.simnpu._cuda_trap import CudaTrapError, trap_cuda

__all__ = ["CudaTrapError", "activate", "allow_float64", "fallbacks", "forbid", "trap_cuda"]

_active: dict[str, int] = {}


def activate(devices: int = 2, strict: bool = True) -> None:
    """Give this process simulated npu devices and booby-trap every way to cuda.

    The backend is compiled by the machine's C++ compiler when it is not in the user's cache (half a
    minute). Call it before mmengine is imported, which looks for devices only then. Backward passes
    run in the calling thread: the autograd engine's device threads can outlive the interpreter.

    Args:
        devices: how many, 1 to 16.
        strict: float64 tensors on npu are an error, for Ascend has next to no kernels for them.

    Raises:
        RuntimeError: another backend took PrivateUse1, or the simulation runs with other devices.
        MachineError: no compiler, or it failed.
    """
    if _active:
        if _active["devices"] != devices:
            raise RuntimeError(
                f"simnpu: devices must stay {_active['devices']} once active, got {devices}"
            )
        torch.ops.simnpu.set_strict(strict)
        return
    name = torch._C._get_privateuse1_backend_name()
    if name != "privateuseone" or "torch_npu" in sys.modules:
        raise RuntimeError(f"simnpu: PrivateUse1 must be free in this process, got {name!r}")
    # A torch_npu that is installed must not be loaded by processes that start from here.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    backend_registration.rename_privateuse1_backend("npu")
    library = _build.library()
    torch.ops.load_library(str(library))
    torch.ops.simnpu.install(devices, strict)
    _torch_npu.register(runtime)
    _hccl.register(library)
    torch.autograd.set_multithreading_enabled(False)
    trap_cuda()
    _active["devices"] = devices


@contextmanager
def fallbacks() -> Iterator[dict[str, int]]:
    """Counts what aten answered through the CPU inside the block: operator to number of calls.

    The dict is filled when the block ends.
    """
    before = dict(torch.ops.simnpu.fallback_counts())
    counts: dict[str, int] = {}
    yield counts
    after = torch.ops.simnpu.fallback_counts()
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    counts.update({name: count for name, count in sorted(grown.items()) if count})


@contextmanager
def forbid(names: Sequence[str]) -> Iterator[None]:
    """Makes operators (``aten::cumsum.out``) raise inside the block instead of falling back."""
    before = torch.ops.simnpu.forbidden()
    torch.ops.simnpu.forbid([*before, *names])
    try:
        yield
    finally:
        torch.ops.simnpu.forbid(before)


@contextmanager
def allow_float64() -> Iterator[None]:
    """Float64 tensors may be on npu inside the block, as after ``activate(strict=False)``."""
    before = torch.ops.simnpu.strict()
    torch.ops.simnpu.set_strict(False)
    try:
        yield
    finally:
        torch.ops.simnpu.set_strict(before)
