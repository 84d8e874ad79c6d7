"""What a device wants computed otherwise than torch's defaults, applied to a built model."""

from typing import Any

import torch
from torch import Tensor, nn

from anybev.device import Backend, Capability

_HALF = (torch.float16, torch.bfloat16)


def apply_numerics(model: nn.Module, backend: Backend) -> None:
    """Change ``model`` for ``backend``, in place; parameters and keys stay.

    With ``Capability.NORM_ROWS_IN_FLOAT32`` batch norms over rows, (N, C), take half-precision
    rows in float32 and give them back in their own dtype.
    """
    if Capability.NORM_ROWS_IN_FLOAT32 not in backend.capabilities:
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and not hasattr(module, "_rows_dtype"):
            module._rows_dtype = None  # type: ignore[assignment]
            module.register_forward_pre_hook(_widen)
            module.register_forward_hook(_narrow)


def _widen(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    rows: Tensor = inputs[0]
    narrow = rows.dim() == 2 and rows.dtype in _HALF
    module._rows_dtype = rows.dtype if narrow else None  # type: ignore[assignment]
    return (rows.float(), *inputs[1:]) if narrow else None


def _narrow(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
    dtype: Any = module._rows_dtype
    return output.to(dtype) if dtype is not None else None
