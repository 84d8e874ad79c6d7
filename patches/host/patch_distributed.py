"""mmengine starts processes on CUDA only: a CPU has no device to set, and gloo, not nccl."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch.distributed
from torch import nn

from anybev.device import current_backend

Function = Callable[..., None]


def start(original: Function) -> Function:
    """``_init_dist_pytorch`` on the device in use.

    Upstream calls ``torch.cuda.set_device`` and starts the backend that the config names, which in
    every config of mmdetection3d is nccl. On CUDA, and where mmengine knows the device itself,
    nothing changes; elsewhere the collective is the one of the device.
    """

    @wraps(original)
    def init_dist(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
        here = current_backend()
        if here.name != "cpu" or init_backend != "torch":
            return original(backend, init_backend=init_backend, **kwargs)
        torch.distributed.init_process_group(backend=here.collective, **kwargs)
        return None

    return init_dist


def wrap(original: Function) -> Function:
    """``MMDistributedDataParallel.__init__`` for a model on the CPU.

    The runner hands it ``device_ids=[LOCAL_RANK]``, which torch refuses for a model whose
    parameters lie on the CPU. Models on other devices are wrapped as before.
    """

    @wraps(original)
    def init(self: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            kwargs = {**kwargs, "device_ids": None, "output_device": None}
        return original(self, module, *args, **kwargs)

    return init
