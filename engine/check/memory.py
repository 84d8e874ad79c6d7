"""Allocation, and copies between host and devices."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from anybev.device import Backend, Capability
from anybev.engine.check.results import Row, Status, failed, timed

SECTION = "memory"
_BYTES = 1 << 24
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)


def _pattern(count: int = _BYTES) -> Tensor:
    """Bytes that repeat at no power of two."""
    return (torch.arange(count, dtype=torch.int32) % 251).to(torch.uint8)


def _allocate(backend: Backend) -> str:
    device = backend.device()
    for dtype in _DTYPES:
        if dtype is torch.bfloat16 and Capability.BFLOAT16 not in backend.capabilities:
            continue
        for size in (0, 1, 1 << 20):
            made = torch.ones(size, dtype=dtype, device=device)
            if int(made.sum(dtype=torch.float32).cpu()) != size:
                raise RuntimeError(f"{size} ones of {dtype} do not add up to {size}")
    backend.synchronize()
    return f"peak {backend.peak_memory_mib():.0f} MiB"


def _there_and_back(backend: Backend) -> str:
    sent = _pattern()
    if not torch.equal(sent.to(backend.device()).cpu(), sent):
        raise RuntimeError("bytes changed between host and device")
    return f"{_BYTES >> 20} MiB"


def _pinned(backend: Backend) -> str:
    sent = _pattern().pin_memory()
    received = sent.to(backend.device(), non_blocking=True)
    back = torch.empty_like(sent).pin_memory()
    back.copy_(received, non_blocking=True)
    backend.synchronize()
    if not torch.equal(back, _pattern()):
        raise RuntimeError("bytes changed between pinned memory and device")
    return f"{_BYTES >> 20} MiB"


def _between(backend: Backend) -> str:
    sent = _pattern().to(backend.device(0))
    received = sent.to(backend.device(1))
    backend.synchronize()
    if received.device == sent.device or not torch.equal(received.cpu(), _pattern()):
        raise RuntimeError("bytes changed between two devices")
    return f"{_BYTES >> 20} MiB"


def memory_rows(backend: Backend) -> list[Row]:
    """Allocation in every dtype, copies there and back, pinned, and between two devices."""
    numbered = Capability.INDEXED in backend.capabilities
    others = backend.probe().devices - 1
    steps: dict[str, tuple[Callable[[Backend], str], str]] = {
        "allocation": (_allocate, ""),
        "host to device and back": (_there_and_back, ""),
        "pinned memory": (_pinned, "" if numbered else f"{backend.name} needs none"),
        "device to device": (_between, "" if numbered and others > 0 else "one device"),
    }
    return [_row(backend, name, run, reason) for name, (run, reason) in steps.items()]


def _row(backend: Backend, name: str, run: Callable[[Backend], str], reason: str) -> Row:
    row = Row(SECTION, name, backend.name, Status.PASS)
    if reason:
        return replace(row, status=Status.SKIP, message=reason)
    try:
        with timed() as clock:
            message = run(backend)
    except Exception as error:  # of a driver, whatever its kind: the row says so
        return failed(row, error)
    return replace(row, seconds=clock.seconds, message=message)
