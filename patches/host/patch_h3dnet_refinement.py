"""H3DNet's box head adds in place to what a ReLU keeps for its gradient."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor


def replace(original: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """The same forward, with a copy of the first refinement's output to add to.

    Upstream adds the proposal's features to it in place; since 1.10 torch's ReLU needs its own
    output for the gradient, and backward raises. Values are equal.
    """

    @wraps(original)
    def forward(self: Any, feats_dict: dict[str, Any]) -> dict[str, Tensor]:
        handle = self.bbox_pred[0].register_forward_hook(lambda *call: call[-1].clone())
        try:
            return original(self, feats_dict)
        finally:
            handle.remove()

    return forward
