"""Projects of mmdetection3d that make tensors on CUDA, whatever device the model is on."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anybev.patches.host._overlay import Facade, with_globals

Function = Callable[..., Any]


def grid_mask(original: Function) -> Function:
    """PETR's ``GridMask.forward``: the mask goes to the pictures' device, not to ``.cuda()``."""

    @wraps(original)
    def forward(self: Any, x: Tensor) -> Tensor:
        class Sent(Tensor):
            """A tensor whose ``.cuda()`` sends it to the device of the pictures."""

            def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
                del args, kwargs
                return self.as_subclass(Tensor).to(x.device)

        def from_numpy(array: np.ndarray) -> Tensor:
            # A rotated mask is a view that PIL does not let be written; torch would warn.
            return torch.from_numpy(array.copy()).as_subclass(Sent)

        masked: Tensor = with_globals(original, torch=Facade(torch, from_numpy=from_numpy))(self, x)
        return masked

    return forward


def reference_points(original: Function) -> Function:
    """TPVFormer's ``get_reference_points``: on the CPU unless asked, then moved with the model.

    Upstream's default is CUDA; the encoder registers the points as buffers.
    """

    @wraps(original)
    def get_reference_points(*args: Any, **kwargs: Any) -> Tensor:
        named = {"device": "cpu"} if len(args) <= _DEVICE else {}
        points: Tensor = original(*args, **named | kwargs)
        return points

    return get_reference_points


_DEVICE = 6  # position of ``device`` among the parameters
