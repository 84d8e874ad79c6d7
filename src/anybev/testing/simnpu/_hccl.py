"""Collectives named ``hccl``: gloo between processes, on copies of the device's tensors."""

from typing import Any

import torch.distributed as dist
from torch.futures import Future


def _done(value: Any) -> Any:
    from torch._C._distributed_c10d import _create_work_from_future

    future: Future[Any] = Future()
    future.set_result(value)
    return _create_work_from_future(future)


class SimulatedHccl(dist.ProcessGroup):
    """HCCL as far as data-parallel training uses it; a tensor of another device is an error."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def getBackendName(self) -> str:
        """Name by which torch knows it."""
        return "hccl"


def register() -> None:
    """Make ``hccl`` a backend of torch.distributed, for npu."""
    if dist.is_available() and not hasattr(dist.Backend, "HCCL"):
        dist.Backend.register_backend("hccl", SimulatedHccl, devices=["npu"])
