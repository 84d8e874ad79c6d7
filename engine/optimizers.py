"""The device's own optimizer in place of torch's, where the mathematics is the same."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anybev.device import current_backend

# What the fused optimizers have; a config that says more, ``fused=False`` too, keeps torch's own.
_ARGUMENTS = {"type", "lr", "betas", "eps", "weight_decay"}
_DTYPES = (torch.float32, torch.float16)


def fused_class(config: Any, model: nn.Module) -> type[Optimizer] | None:
    """The device's optimizer for what ``optim_wrapper`` of a config describes, or None.

    Args:
        config: ``optim_wrapper``; anything but a mapping with an optimizer's config gives None.
        model: whose parameters are trained: float32 or float16 ones alone are fused.
    """
    optimizer = config.get("optimizer") if isinstance(config, Mapping) else None
    if not isinstance(optimizer, Mapping) or set(optimizer) - _ARGUMENTS:
        return None
    name = optimizer.get("type")
    if not isinstance(name, str):
        return None
    if any(p.dtype not in _DTYPES for p in model.parameters() if p.requires_grad):
        return None
    return current_backend().fused_optimizer(name)


def with_optimizer(config: Any, kind: type[Optimizer]) -> dict[str, Any]:
    """``optim_wrapper`` with another class of optimizer."""
    return {**config, "optimizer": {**config["optimizer"], "type": kind}}


class SameGradients:
    """Step pre-hook: a fused optimizer updates what had a gradient in its first step, nothing else.

    Raises:
        RuntimeError: a parameter gets its first gradient in a later step.
    """

    def __init__(self) -> None:
        self._first: set[int] | None = None

    def __call__(self, optimizer: Optimizer, arguments: Any, options: Any) -> None:
        """Look at which parameters have a gradient."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        having = {i for i, p in enumerate(parameters) if p.grad is not None}
        if self._first is None:
            self._first = having
        if late := having - self._first:
            raise RuntimeError(
                f"optim_wrapper: parameters of {type(optimizer).__name__} must all have a gradient "
                f"in its first step, got {len(late)} whose first came later; try "
                "optim_wrapper.optimizer.fused=False"
            )


def plain_steps(optimizer: Optimizer) -> None:
    """Load post-hook: steps as numbers, for torch's AdamW writes tensors.

    torch_npu's counts a parameter's steps and, starting from the first one's, those of the group:
    in one tensor these would be two counts at once. Subclasses of torch's keep their tensors.

    Raises:
        RuntimeError: the optimizer has made a step: its combined state would not be replaced.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        return
    if getattr(optimizer, "is_states_combined", False):
        raise RuntimeError(
            f"optim_wrapper: state of {type(optimizer).__name__} must be loaded before its first "
            "step, got it after one; try optim_wrapper.optimizer.fused=False"
        )
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = int(state["step"])


def watch(optimizer: Optimizer) -> None:
    """Attach what keeps a fused optimizer's steps those of torch's."""
    optimizer.register_step_pre_hook(SameGradients())
    optimizer.register_load_state_dict_post_hook(plain_steps)
