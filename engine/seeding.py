"""The random generators that training draws from, saved and restored."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from anybev.device import current_backend


def rng_state() -> dict[str, Any]:
    """State of this process's generators, as plain data and CPU tensors.

    Returns:
        ``torch`` (host), ``device`` (of the backend that ``backend`` names; dropout draws from
        it), ``numpy`` and ``python``.
    """
    state: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, position, has_gauss, cached = state
    backend = current_backend()
    return {
        "torch": torch.get_rng_state(),
        "backend": backend.name,
        "device": backend.rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what ``rng_state`` gave; on another backend the device's generator stays as it is."""
    backend = current_backend()
    if state["backend"] == backend.name:
        backend.set_rng_state(state["device"].cpu())
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached)
    )
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
