"""Other libraries that benchmarks compare with, where they are installed."""

import importlib
from importlib import metadata, util
from types import ModuleType

import torch

# Its scatter shares two row pointers between threads, so sums go astray; plans are built serially.
SPCONV_THREADS_NOTE = "time only: spconv's CPU convolution gives wrong values on 2 threads"


def spconv(device_type: str = "cpu") -> ModuleType | None:
    """``spconv.pytorch``, made to run without an NVIDIA driver, or None.

    Args:
        device_type: where it is to run; spconv knows ``cpu`` and ``cuda``.
    """
    if device_type not in ("cpu", "cuda") or util.find_spec("spconv") is None:
        return None
    core = importlib.import_module("spconv.pytorch.cppcore")
    functions = importlib.import_module("spconv.pytorch.ops")
    if not torch.cuda.is_available():  # noqa: TID251 (asks for spconv's sake, not for a backend)
        # Its CPU path asks for the current CUDA stream all the same.
        for module in (core, functions):
            module.get_current_stream = lambda: 0  # type: ignore[attr-defined]
    return importlib.import_module("spconv.pytorch")


def spconv_name() -> str:
    """Name of the side in rows: ``spconv 2.3.8``."""
    return f"spconv {metadata.version('spconv')}"
