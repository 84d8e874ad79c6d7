"""Collectives named ``hccl``: gloo between processes, on copies of the device's tensors."""

from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import torch.distributed as dist


def register(library: Path) -> None:
    """Make ``hccl`` a backend of torch.distributed, for tensors on npu alone.

    Args:
        library: the compiled backend, which is a Python module too.
    """
    if not dist.is_available():
        return
    loader = ExtensionFileLoader("simnpu_native", str(library))
    spec = spec_from_loader(loader.name, loader)
    if spec is None:
        raise ImportError(f"simnpu: {library} must be a Python module")
    native = module_from_spec(spec)
    loader.exec_module(native)

    def create(store: Any, rank: int, size: int, timeout: Any) -> Any:
        gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        return native.hccl(gloo, rank, size)

    dist.Backend.register_backend("hccl", create, devices=["npu"])
