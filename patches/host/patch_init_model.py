"""mmdet3d's inference API sets a CUDA device, whatever the device is."""

from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any

import torch

from anybev.device import current_backend
from anybev.patches.host._overlay import Facade, with_globals


def _set_device(device: Any) -> None:
    """``torch.cuda.set_device`` for any device that has an index."""
    device = torch.device(device)
    if device.type != "cpu" and device.index is not None:
        torch.get_device_module(device).set_device(device)


def replace(original: Callable[..., Any]) -> Callable[..., Any]:
    """``init_model`` on the device in use, unless the caller names one.

    Upstream's default is ``cuda:0`` and every device but ``"cpu"`` goes to
    ``torch.cuda.set_device``. The default is AnyBEV's device now, which on a CUDA machine is the
    same.
    """
    anywhere = with_globals(
        original, torch=Facade(torch, cuda=SimpleNamespace(set_device=_set_device))
    )

    @wraps(original)
    def init_model(
        config: Any, checkpoint: str | None = None, device: str | None = None, **kwargs: Any
    ) -> Any:
        return anywhere(config, checkpoint, device or str(current_backend().device()), **kwargs)

    return init_model
