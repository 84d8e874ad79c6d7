"""Every way to cuda raises, with the line that took it."""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import torch

# Questions that torch itself asks on every machine; the answer is that there is no such device.
_QUESTIONS = frozenset(
    {
        "device_count",
        "is_available",
        "is_bf16_supported",
        "is_current_stream_capturing",
        "is_initialized",
        "manual_seed",
        "manual_seed_all",
    }
)


class CudaTrapError(RuntimeError):
    """A program that should run on npu asked for cuda."""


def _caller() -> str:
    """Where the program asked: the newest line that is neither torch's nor of this file."""
    inside = (__file__, torch.__path__[0])
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(inside):
            return f"{frame.filename}:{frame.lineno}"
    return "an unknown line"


def _refuse(name: str) -> NoReturn:
    raise CudaTrapError(
        f"{name} must not be used where the device is npu, got a call at {_caller()}"
    )


def _trapped(name: str) -> Callable[..., NoReturn]:
    def trap(*_: Any, **__: Any) -> NoReturn:
        _refuse(name)

    return trap


def _guard_device_type(owner: Any, name: str) -> None:
    """Trap ``owner("cuda", ...)`` and leave other devices alone."""
    original = owner.__init__

    @functools.wraps(original)
    def checked(self: Any, device: Any = "cuda", *args: Any, **kwargs: Any) -> None:
        if str(kwargs.get("device_type", device)).startswith("cuda"):
            _refuse(f"{name}('cuda')")
        if "device_type" in kwargs:
            original(self, *args, **kwargs)
        else:
            original(self, device, *args, **kwargs)

    owner.__init__ = checked


def _no_device(*_: Any, **__: Any) -> bool:
    return False


def trap_cuda() -> None:
    """Booby-trap cuda: calls, classes, methods and every tensor asked for there.

    Trapped are the functions and classes of ``torch.cuda``, ``Tensor.cuda``, ``Module.cuda``,
    storages' ``cuda``, autocast and GradScaler for cuda, and whatever makes a tensor on cuda or
    moves one there. ``torch.device("cuda")`` alone stays a name.
    """
    module: Any = sys.modules["torch.cuda"]
    if getattr(module.synchronize, "__name__", "") == "trap":
        return
    _guard_device_type(torch.amp.autocast, "torch.autocast")
    _guard_device_type(torch.amp.GradScaler, "torch.amp.GradScaler")
    for name, value in list(vars(module).items()):
        public = not name.startswith("_") and name not in _QUESTIONS
        torchs = callable(value) and str(getattr(value, "__module__", "")).startswith("torch")
        if public and torchs:
            setattr(module, name, _trapped(f"torch.cuda.{name}"))
    module.is_available, module.device_count = _no_device, lambda: 0
    module._lazy_init = _trapped("device cuda")  # torch's own way to cuda, from C++ too
    owners: tuple[tuple[Any, str], ...] = (
        (torch.Tensor, "Tensor.cuda"),
        (torch.nn.Module, "Module.cuda"),
        (torch.UntypedStorage, "Storage.cuda"),
        (torch.TypedStorage, "Storage.cuda"),
    )
    for owner, name in owners:
        owner.cuda = _trapped(name)
