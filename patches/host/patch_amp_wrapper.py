"""mmengine's mixed precision refuses the CPU, and makes its loss scaler for CUDA."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch

from anybev.device import Capability, current_backend
from anybev.patches.host._overlay import with_globals

Init = Callable[..., None]


def replace(original: Init) -> Init:
    """``AmpOptimWrapper.__init__`` on the device in use.

    Where upstream runs (CUDA, and NPU with torch_npu) nothing changes. On the CPU, which upstream
    refuses by an assertion, autocast is bfloat16 (mmengine's own choice there), which needs no
    loss scaling: the scaler is there and switched off.
    """

    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        backend = current_backend()
        if backend.name == "cuda" or (backend.name == "npu" and _upstream_knows_npu()):
            original(self, *args, **kwargs)
            return
        scaler = partial(
            torch.amp.GradScaler,
            device=backend.device_type,
            enabled=Capability.GRAD_SCALER in backend.capabilities,
        )
        build = with_globals(original, is_cuda_available=lambda: True, GradScaler=scaler)
        build(self, *args, **kwargs)

    return init


def _upstream_knows_npu() -> bool:
    from mmengine.device import is_npu_available

    return bool(is_npu_available())
