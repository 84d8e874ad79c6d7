"""Kernels written once in Triton, for CUDA and Ascend; chosen with ``<operator>=triton``.

This package imports without triton. A module of kernels imports it, so it is imported by the call
that needs it.
"""

import contextlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from anybev import envs

# Ascend numbers programs in 16 bits; kernels loop over their tasks.
_MAX_PROGRAMS = (1 << 16) - 1
#: Of every compilation: multiplications and additions stay apart, each rounds as in the contracts.
OPTIONS = {"enable_fp_fusion": False}
# Device -> the part of triton that compiles for it, and the package that has it.
_PACKAGES = {"cuda": ("nvidia", "triton"), "npu": ("ascend", "triton-ascend")}


@dataclass(frozen=True)
class Example:
    """How a kernel is called on a real problem, for compiling it where it cannot run.

    Attributes:
        kernel: the function that ``triton.jit`` made.
        signature: argument -> Triton's type, constants left out.
        constants: constexpr argument -> value.
        block: the constant to enlarge until a tile no longer fits on the device.
    """

    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, int] = field(default_factory=dict)
    block: str = ""

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return str(self.kernel.fn.__name__)


def check_installed(operator: str) -> None:
    """Raise unless triton can be imported.

    Raises:
        MachineError: it cannot.
    """
    if importlib.util.find_spec("triton") is None:
        raise envs.MachineError(
            f"{operator}: triton must be installed for ANYBEV_OPS={operator}=triton, got none; try "
            "pip install triton (CUDA) or triton-ascend (Ascend)"
        )


def check_runs_on(operator: str, kernel: Any, device: torch.device) -> None:
    """Raise unless the installed triton compiles ``kernel`` for ``device``, or interprets it.

    Raises:
        MachineError: it does not.
    """
    from triton import JITFunction

    if not isinstance(kernel, JITFunction):  # interpreted
        return
    if device.type not in _PACKAGES:
        raise envs.MachineError(
            f"{operator}: logits must be on a device that Triton compiles for, got {device.type}; "
            f"try ANYBEV_OPS without {operator}=triton"
        )
    module, package = _PACKAGES[device.type]
    if importlib.util.find_spec(f"triton.backends.{module}") is None:
        raise envs.MachineError(
            f"{operator}: triton must be of the package {package} for {device.type}, got another; "
            f"try pip install {package}, or ANYBEV_OPS without {operator}=triton"
        )


def launch(kernel: Any, tasks: int, device: torch.device, *args: Any, **constants: int) -> None:
    """Run ``kernel`` on the current stream of ``device``, one program a task where they may be."""
    if not tasks:
        return
    guard: Any = contextlib.nullcontext()
    if device.index is not None:
        guard = torch.get_device_module(device).device(device.index)
    with guard:
        kernel[(min(tasks, _MAX_PROGRAMS),)](*args, **constants, **OPTIONS)
