"""The last mmengine of OpenMMLab cannot read its own checkpoints with torch 2.6 and later."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch

Loader = Callable[..., Any]

_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
# numpy's values, by the names of numpy 2 and of numpy 1.
_ARRAY_NAMES = ("numpy._core.multiarray", "numpy.core.multiarray")
_NUMBERS = "?bhilqBHILQefdg"


def skip_reason() -> str | None:
    """The maintained fork, onedl-mmengine, has a loader of its own for these files."""
    from mmengine.runner import checkpoint

    return (
        "this mmengine reads its checkpoints with torch 2.6 and later"
        if hasattr(checkpoint, "_safe_torch_load")
        else None
    )


def _method(owner: Any, name: str) -> Any:
    """``getattr`` for the statistics that log histories register, and for nothing else."""
    from mmengine.logging import HistoryBuffer

    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(HistoryBuffer, name)
    raise ValueError(f"checkpoint: attributes of {owner!r} are not looked up, got {name!r}")


def allowed_globals() -> list[Any]:
    """What checkpoints of mmengine's runner name beside tensors: log histories, numpy numbers."""
    from mmengine.logging import HistoryBuffer

    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    return [
        (HistoryBuffer, _HISTORY),
        (_method, "builtins.getattr"),
        *((multiarray._reconstruct, f"{module}._reconstruct") for module in _ARRAY_NAMES),
        *((multiarray.scalar, f"{module}.scalar") for module in _ARRAY_NAMES),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in _NUMBERS},
        slice,
    ]


def replace(original: Loader) -> Loader:
    """``CheckpointLoader.load_checkpoint`` with the names that mmengine's own files hold allowed.

    Everything else still stops the load with torch's error, which says how a user can allow it.
    Upstream relied on a loader that ran whatever a file asked for.
    """

    @wraps(original)
    def load_checkpoint(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.serialization.safe_globals(allowed_globals()):
            return original(cls, *args, **kwargs)

    return load_checkpoint
