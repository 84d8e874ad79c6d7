"""Which operators call mx_driving on an Ascend device, and when they do not.

An adapter is a function of the contract's name in ``anybev.device.npu.ops``. It is registered at
``PrivateUse1`` without being imported; neither it nor mx_driving is loaded before a tensor on an
npu reaches the operator (importing mx_driving starts torch_npu and reroutes ``torch.cuda``).
"""

import functools
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from anybev.device.npu.limits import KernelFallbackWarning, LimitExceeded, NotForKernel

# Contract -> module of ``anybev.device.npu.ops``. rasterize_depth and sparse_neighbors have none:
# mx_driving offers no depth map and no pair lists, and their references run on any device.
ADAPTERS = {
    "bev_pool": "bev_pool",
    "bev_pool_backward": "bev_pool",
    "box_iou_rotated": "box_iou_rotated",
    "draw_heatmap": "draw_heatmap",
    "lift_splat": "lift_splat",
    "lift_splat_backward": "lift_splat",
    "nms_rotated": "nms_rotated",
    "points_in_boxes": "points_in_boxes",
    "scatter_points": "scatter_points",
    "sparse_conv": "sparse_conv",
    "sparse_conv_backward": "sparse_conv",
    "sparse_conv_grad_weight": "sparse_conv",
    "sparse_conv_payload": "sparse_conv",
    "voxelize_dynamic": "voxelize_dynamic",
    "voxelize_hard": "voxelize_hard",
    "voxelize_hard_points": "voxelize_hard",
}

_told: set[tuple[str, str]] = set()


@functools.cache
def _on_path() -> bool:
    return importlib.util.find_spec("mx_driving") is not None


def installed() -> bool:
    """Whether mx_driving can be found; it is not imported."""
    return "mx_driving" in sys.modules or _on_path()


def vendor() -> ModuleType:
    """The mx_driving package, whose import would have every library log its INFO."""
    if "mx_driving" in sys.modules:
        return sys.modules["mx_driving"]
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        return importlib.import_module("mx_driving")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def vendor_functional() -> ModuleType:
    """Functions of mx_driving's sparse convolutions."""
    vendor()
    return importlib.import_module("mx_driving.ops.sparse_functional")


def vendor_kernels() -> Any:
    """The binding below mx_driving's Python layer, for what that layer does only in a backward."""
    vendor()
    return importlib.import_module("mx_driving._C")


def runtime() -> Any:
    """torch_npu's device module, which its import puts into torch."""
    return torch.npu  # type: ignore[attr-defined]


def tell_again() -> None:
    """Forget which warnings were given (for tests)."""
    _told.clear()


def _tell(operator: str, limit: LimitExceeded) -> None:
    if (operator, limit.reason) in _told:
        return
    _told.add((operator, limit.reason))
    message = f"{operator}: mx_driving's kernel is left for the reference: {limit}"
    warnings.warn(message, KernelFallbackWarning, stacklevel=3)


def kernel(name: str, operator: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """What runs at ``PrivateUse1``: the adapter, or the reference where a limit does not hold.

    Args:
        name: of the contract.
        operator: its public name, for warnings.
        reference: its plain-PyTorch implementation.
    """

    @functools.wraps(reference)
    def run(*args: Any) -> Any:
        if not installed():
            return reference(*args)
        try:
            module = importlib.import_module(f"anybev.device.npu.ops.{ADAPTERS[name]}")
            return getattr(module, name)(*args)
        except NotForKernel:
            pass
        except LimitExceeded as limit:
            _tell(operator, limit)
        return reference(*args)

    return run
