"""A compiled ``mmcv._ext`` stays in place; names without a CPU kernel in it are answered here."""

import importlib
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from anybev.patches.ext._module import load_families
from anybev.patches.ext._names import NAMES
from anybev.patches.ext._table import SUPPLIED, first_tensor
from anybev.patches.host import patch_mmcv_ext
from anybev.patches.outcome import PatchError

# Names with a CPU kernel in mmcv 2.1.0 (csrc/pytorch/cpu); what takes no tensor is among them.
COMPILED_ON_CPU = frozenset(
    (
        "active_rotated_filter_backward",
        "active_rotated_filter_forward",
        "bbox_overlaps",
        "bezier_align_backward",
        "bezier_align_forward",
        "box_iou_quadri",
        "box_iou_rotated",
        "contour_expand",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "deform_conv_forward",
        "dynamic_voxelize_forward",
        "get_compiler_version",
        "get_compiling_cuda_version",
        "hard_voxelize_forward",
        "modulated_deform_conv_backward",
        "modulated_deform_conv_forward",
        "nms",
        "nms_match",
        "nms_quadri",
        "nms_rotated",
        "pixel_group",
        "points_in_boxes_cpu_forward",
        "psamask_backward",
        "psamask_forward",
        "roi_align_backward",
        "roi_align_forward",
        "roi_align_rotated_backward",
        "roi_align_rotated_forward",
        "rotated_feature_align_backward",
        "rotated_feature_align_forward",
        "softnms",
    )
)


def skip_reason() -> str | None:
    """Nothing to fill where nothing is compiled."""
    return None if patch_mmcv_ext.compiled() else "mmcv is not compiled: mmcv-ext supplies it whole"


def _filled(compiled: Callable[..., Any], supplied: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(supplied)
    def call(*arguments: Any, **named: Any) -> Any:
        first = first_tensor(arguments, named)
        chosen = supplied if first is not None and first.device.type == "cpu" else compiled
        return chosen(*arguments, **named)

    return call


def replace() -> dict[str, ModuleType]:
    """The compiled module's functions, those that refuse CPU tensors exchanged on the CPU.

    Raises:
        PatchError: the compiled module cannot be loaded, as one built for another torch.
    """
    load_families()
    try:
        compiled = importlib.import_module(patch_mmcv_ext.NAME)
    except ImportError as error:
        raise PatchError(
            f"patches: {patch_mmcv_ext.NAME} must load, got ImportError: {error}; try mmcv-lite, "
            "or an mmcv that was built for this torch"
        ) from error
    filled = ModuleType(patch_mmcv_ext.NAME, compiled.__doc__)
    vars(filled).update(vars(compiled))
    for name in NAMES:
        if name in SUPPLIED and name not in COMPILED_ON_CPU:
            setattr(filled, name, _filled(getattr(compiled, name), SUPPLIED[name].call))
    return {patch_mmcv_ext.NAME: filled}
