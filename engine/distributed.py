"""Several processes on any backend: mmengine's own set-up takes an accelerator for granted."""

import datetime
import os
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from anybev import envs
from anybev.device import Capability, current_backend
from anybev.engine.job.interfaces import resolve, towards

_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


def unnumbered() -> bool:
    """Whether the backend's devices have no index, which mmengine's set-up cannot do without."""
    return Capability.INDEXED not in current_backend().capabilities


def joins_by_itself(launcher: str) -> bool:
    """Whether mmengine would start another process group than the backend's.

    With torchrun on the CPU it starts none; on npu one of HCCL alone, which takes no host tensors.
    """
    several = ":" in current_backend().collective
    return launcher == "pytorch" and (unnumbered() or several) and not dist.is_initialized()


def join(options: Mapping[str, Any]) -> None:
    """Join the process group that torchrun describes in the environment.

    Args:
        options: ``env_cfg.dist_cfg``: ``backend``, and ``timeout`` in seconds.

    Raises:
        MachineError: the process was not started by torchrun, or cannot reach the others; the
            message names where.
    """
    if "RANK" not in os.environ:
        raise envs.MachineError(
            "launcher: pytorch must be started by torchrun, got no RANK in the environment; try "
            "torchrun --nproc-per-node N tools/train.py ... --launcher pytorch"
        )
    # As torchrun chose for OpenMP; unset, mmengine sets it to 1 and warns.
    os.environ.setdefault("MKL_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    arguments = dict(options)
    if "timeout" in arguments:
        arguments["timeout"] = datetime.timedelta(seconds=arguments["timeout"])
    _choose_interface()
    current_backend().choose_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group(**arguments)
    except RuntimeError as error:  # of the store and of gloo, both with torch's own text
        rank, size, address, port = (
            os.environ.get(key, "?") for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        )
        interface = os.environ.get(_GLOO_INTERFACE, "the one of the host's name")
        raise envs.MachineError(
            f"rank {rank}: could not join the {size} processes that meet at {address}:{port}, over "
            f"interface {interface} ({str(error).splitlines()[0]})"
        ) from error


def _choose_interface() -> None:
    """With several nodes, use the interface that leads to the first one, unless the user chose.

    Gloo would take the interface of the host's name, which need not reach any other node.
    """
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) < 2 or _GLOO_INTERFACE in os.environ:
        return
    interface = towards(resolve(os.environ.get("MASTER_ADDR", ""), "MASTER_ADDR"))
    if interface is not None:
        os.environ[_GLOO_INTERFACE] = interface.name


def leave() -> None:
    """Wait for the other processes and close the group: one that vanishes aborts the others."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def wrap_unnumbered(model: nn.Module, arguments: Mapping[str, Any]) -> DistributedDataParallel:
    """The model with its gradients averaged over the processes; there is no device index.

    Args:
        model: in the process's memory.
        arguments: of ``DistributedDataParallel``.
    """
    wrapped: DistributedDataParallel = MMDistributedDataParallel(module=model, **arguments)
    return wrapped
