"""The modules ``torch.npu`` and ``torch_npu``, as far as AnyBEV and mmengine look at them."""

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

#: Of an Ascend 910B; from 220 on mmengine takes a device for one that trains in float32.
_SOC_VERSION = 220


class NpuFusedAdamW(torch.optim.AdamW):
    """Stands for ``torch_npu.optim.NpuFusedAdamW``: AdamW, of parameters on npu alone.

    Raises:
        ValueError: a parameter is elsewhere, or ``amsgrad``, which the fused kernel has not.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if amsgrad:
            raise ValueError("NpuFusedAdamW: amsgrad must be False, got True")
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.device.type != "npu":
                    raise ValueError(
                        f"NpuFusedAdamW: parameters must be on npu, got {parameter.device}"
                    )

    def clip_grad_norm_fused_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Norm of all gradients before clipping."""
        everything = [p for group in self.param_groups for p in group["params"]]
        return torch.nn.utils.clip_grad_norm_(everything, max_norm, norm_type)


class _TensorType(type):
    """What ``torch.npu.LongTensor`` is: a type whose instances are npu's tensors of one dtype."""

    dtype: torch.dtype

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Tensor) and value.is_npu and value.dtype is cls.dtype  # type: ignore[attr-defined]


def _tensor_types() -> dict[str, type]:
    names = {"Bool": torch.bool, "Float": torch.float32, "Half": torch.float16}
    names |= {"Int": torch.int32, "Long": torch.int64}
    return {
        f"{name}Tensor": _TensorType(f"{name}Tensor", (), {"dtype": dtype})
        for name, dtype in names.items()
    }


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__dict__.update(content)
    sys.modules[name] = module
    return module


def _print_from_host() -> None:
    """Have tensors printed through the host: torch formats them in float64."""
    printed: Any = torch._tensor_str._tensor_str

    def from_host(tensor: Tensor, indent: int) -> Any:
        return printed(tensor.detach().cpu() if tensor.device.type == "npu" else tensor, indent)

    torch._tensor_str._tensor_str = from_host


def register(runtime: ModuleType) -> None:
    """Make ``torch.npu`` of ``runtime``, and ``torch_npu`` around it."""
    torch._register_device_module("npu", runtime)
    backend_registration.generate_methods_for_privateuse1_backend(for_storage=True)
    _print_from_host()
    utils = _module("torch_npu.npu.utils", get_soc_version=lambda: _SOC_VERSION)
    amp = _module("torch_npu.npu.amp", GradScaler=torch.amp.GradScaler, autocast=torch.autocast)
    optim = _module("torch_npu.optim", NpuFusedAdamW=NpuFusedAdamW)
    runtime.__dict__.update(utils=utils, amp=amp, **_tensor_types())
    _module("torch_npu", npu=runtime, optim=optim, __version__="simulated")
    for name in ("torch.npu", "torch_npu.npu"):
        sys.modules[name] = runtime
    sys.modules["torch.npu.amp"], sys.modules["torch.npu.utils"] = amp, utils
