"""What ``torch.npu`` offers, over simulated devices (names and meanings of torch_npu)."""

from types import SimpleNamespace, TracebackType
from typing import Any

import torch
from torch import Event, Stream, Tensor

__all__ = [
    "Event",
    "Stream",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_amp_supported_dtype",
    "get_device_name",
    "get_rng_state",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "memory_allocated",
    "reset_peak_memory_stats",
    "seed",
    "set_compile_mode",
    "set_device",
    "set_rng_state",
    "set_stream",
    "stream",
    "synchronize",
]

Where = int | str | torch.device | None

#: Switches of torch_npu; the simulated device only remembers them.
config = SimpleNamespace(allow_internal_format=True)
matmul = SimpleNamespace(allow_hf32=False)
conv = SimpleNamespace(allow_hf32=True)


def _index(where: Where) -> int:
    """-1 stands for the current device."""
    if where is None:
        return -1
    if isinstance(where, int):
        return where
    chosen = torch.device(where)
    if chosen.type != "npu":
        raise ValueError(f"npu: device must be an npu device, got {chosen}")
    return -1 if chosen.index is None else chosen.index


def is_available() -> bool:
    """Whether there is a device."""
    return device_count() > 0


def is_initialized() -> bool:
    """Nothing is set up late."""
    return True


def _lazy_init() -> None:
    pass


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    """Number of simulated devices."""
    return int(torch.ops.simnpu.device_count())


def current_device() -> int:
    """Index of this thread's device."""
    return int(torch.ops.simnpu.current_device())


def set_device(where: Where) -> None:
    """Choose this thread's device."""
    torch.ops.simnpu.exchange_device(_index(where))


class device:
    """Context in which another device is the current one."""

    def __init__(self, where: Where) -> None:
        self.index = _index(where)

    def __enter__(self) -> None:
        self.before = int(torch.ops.simnpu.exchange_device(self.index))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        torch.ops.simnpu.exchange_device(self.before)


def get_device_name(where: Where = None) -> str:
    """Says that it is simulated."""
    return "simulated npu (host memory, CPU kernels)"


def synchronize(where: Where = None) -> None:
    """Everything has run when a call returns."""


def current_stream(where: Where = None) -> Stream:
    """This thread's stream of a device."""
    index = _index(where)
    return torch.accelerator.current_stream(current_device() if index < 0 else index)


def default_stream(where: Where = None) -> Stream:
    """The stream with which a device begins."""
    index = _index(where)
    return Stream(
        stream_id=0, device_index=current_device() if index < 0 else index, device_type=20
    )


def set_stream(chosen: Stream) -> None:
    """Choose this thread's stream."""
    torch.accelerator.set_stream(chosen)


def stream(chosen: Stream) -> Any:
    """Context in which another stream is the current one."""
    return chosen


def is_bf16_supported() -> bool:
    """As on Ascend 910B."""
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Of autocast."""
    return [torch.float16, torch.bfloat16]


def set_compile_mode(jit_compile: bool) -> None:
    """Nothing is compiled."""


def empty_cache() -> None:
    """Nothing is kept."""


def memory_allocated(where: Where = None) -> int:
    """Bytes that tensors on a device hold."""
    return int(torch.ops.simnpu.memory_allocated(_index(where)))


def max_memory_allocated(where: Where = None) -> int:
    """Most bytes held since the last reset."""
    return int(torch.ops.simnpu.peak_memory(_index(where)))


def reset_peak_memory_stats(where: Where = None) -> None:
    """Start a new peak."""
    torch.ops.simnpu.reset_peak_memory(_index(where))


def _generator(where: Where = None) -> torch.Generator:
    found: torch.Generator = torch.ops.simnpu.default_generator(_index(where))
    return found


def manual_seed(seed: int) -> None:
    """Seed the current device's generator."""
    _generator().manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seed every device's generator; ``torch.manual_seed`` does so too."""
    for index in range(device_count()):
        _generator(index).manual_seed(seed)


def seed() -> None:
    """Seed the current device's generator by chance."""
    _generator().seed()


def get_rng_state(where: Where = None) -> Tensor:
    """State of a device's generator."""
    return _generator(where).get_state()


def set_rng_state(state: Tensor, where: Where = None) -> None:
    """Restore what ``get_rng_state`` gave."""
    _generator(where).set_state(state)
