"""Mixed precision on every backend; mmengine's own wrapper refuses the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from anybev.device import Capability, current_backend
from anybev.engine.registry import OPTIM_WRAPPERS

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """Autocast forward, and loss scaling where the dtype is float16.

    Args:
        dtype: ``float16``, ``bfloat16`` or None for the backend's own (bfloat16 on CPU, float16
            on CUDA and NPU).
        loss_scale: ``dynamic`` or a fixed positive number; unused without loss scaling.
        **kwargs: as ``mmengine.optim.OptimWrapper``.

    Attributes:
        skipped_in_row: newest steps that loss scaling skipped because gradients were not finite.

    Raises:
        ValueError: the dtype is unknown, or is float16 on a backend that cannot scale losses.
    """

    def __init__(
        self, *, dtype: str | None = None, loss_scale: str | float = "dynamic", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"optim_wrapper: dtype must be float16 or bfloat16, got {dtype!r}")
        self.backend = current_backend()
        self.dtype = _DTYPES[dtype] if dtype else self.backend.amp_dtype
        scales = self.dtype is torch.float16
        if scales and Capability.GRAD_SCALER not in self.backend.capabilities:
            raise ValueError(
                f"optim_wrapper: dtype on {self.backend.name} must be bfloat16, got float16; it "
                "needs loss scaling, which this backend has not"
            )
        if self.dtype is torch.bfloat16 and Capability.BFLOAT16 not in self.backend.capabilities:
            raise ValueError(
                f"optim_wrapper: dtype on {self.backend.name} must be float16, got bfloat16"
            )
        if loss_scale != "dynamic" and not (isinstance(loss_scale, int | float) and loss_scale > 0):
            raise ValueError(
                "optim_wrapper: loss_scale must be 'dynamic' or a positive number, got "
                f"{loss_scale!r}"
            )
        self._fixed_scale = None if loss_scale == "dynamic" else float(loss_scale)
        fixed = {} if self._fixed_scale is None else {"init_scale": self._fixed_scale}
        self.loss_scaler = torch.amp.GradScaler(
            self.backend.device_type,
            enabled=scales,
            **fixed,  # type: ignore[arg-type]
        )
        self.skipped_in_row = 0
        self._stepped = False
        self.optimizer.register_step_pre_hook(self._count)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast inside mmengine's gradient-accumulation context."""
        with super().optim_context(model), self.backend.autocast(dtype=self.dtype):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backward of the scaled loss."""
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Unscale, clip, step; the scaler skips a step with inf or nan gradients."""
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self._stepped = False
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.skipped_in_row = 0 if self._stepped else self.skipped_in_row + 1
        if self.loss_scaler.is_enabled():
            self.loss_scaler.update(self._fixed_scale)

    def _count(self, *_: Any) -> None:
        self._stepped = True

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state and the scaler's."""
        state: dict[str, Any] = self.optimizer.state_dict()
        state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both; a state saved without mixed precision has no scaler and keeps a new one."""
        state = dict(state_dict)
        scaler = state.pop("loss_scaler", None)
        if scaler:
            self.loss_scaler.load_state_dict(scaler)
        self.optimizer.load_state_dict(state)
