"""Loading of the compiled kernels, and what each backend declares to have."""

import importlib.util
from functools import cache
from pathlib import Path

import torch

from anybev import envs
from anybev.device.npu import adapters

# Operators that a backend's compiled kernels are expected to cover. ``ANYBEV_REQUIRE_NATIVE=1``
# turns a missing one into an error.
DECLARED: dict[str, frozenset[str]] = {
    "cpu": frozenset(
        {
            "voxelize_hard",
            "voxelize_dynamic",
            "scatter_points",
            "sparse_neighbors",
            "sparse_conv",
            "draw_heatmap",
            "box_iou_rotated",
            "nms_rotated",
            "points_in_boxes",
            "lift_splat",
            "rasterize_depth",
            "bev_pool",
        }
    ),
    "cuda": frozenset(
        {
            "points_in_boxes",
            "voxelize_hard",
            "voxelize_dynamic",
            "scatter_points",
            "rasterize_depth",
            "draw_heatmap",
            "lift_splat",
            "bev_pool",
            "sparse_neighbors",
            "sparse_conv",
            "box_iou_rotated",
            "nms_rotated",
        }
    ),
    # Adapters to mx_driving; rasterize_depth and sparse_neighbors run on their references.
    "npu": frozenset(
        {
            "bev_pool",
            "box_iou_rotated",
            "draw_heatmap",
            "lift_splat",
            "nms_rotated",
            "points_in_boxes",
            "scatter_points",
            "sparse_conv",
            "voxelize_dynamic",
            "voxelize_hard",
        }
    ),
}


@cache
def load() -> str | None:
    """Load ``anybev/_C``, or the library that ``ANYBEV_NATIVE_LIBRARY`` names, once.

    Returns:
        None, or why there are no compiled kernels.
    """
    other = envs.native_library()
    if other is not None:
        return _load(other)
    libraries = _built("_C")
    if not libraries:
        return "no compiled kernels: run install.sh on a machine with a C++ compiler"
    return _load(libraries[0])


@cache
def load_cuda() -> str | None:
    """Load ``anybev/_C_cuda`` once; return None, or why there are no CUDA kernels."""
    if envs.native_library() is not None:
        return "ANYBEV_NATIVE_LIBRARY is loaded in their place"
    libraries = _built("_C_cuda")
    if not libraries:
        return "no CUDA kernels: run install.sh --backend cuda on a machine with nvcc"
    return _load(libraries[0])


def _built(stem: str) -> list[Path]:
    spec = importlib.util.find_spec("anybev")
    folder = Path(next(iter(spec.submodule_search_locations or [])))  # type: ignore[union-attr]
    return sorted(folder.glob(f"{stem}.*so"))


def _load(library: Path) -> str | None:
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} does not load ({error}); run install.sh again"
    return None


def why_missing(operator: str, device: str = "cpu") -> str:
    """One phrase on why ``operator`` runs on its reference on a type of device."""
    if operator in envs.forced_references():
        return f"ANYBEV_OPS forces {operator} to it"
    return unavailable(device) or "this build has no kernel for it"


def unavailable(device: str) -> str | None:
    """None, or why a type of device has no kernels of its own."""
    if device == "npu":
        return None if adapters.installed() else "mx_driving, with its kernels, is not installed"
    return load_cuda() if device == "cuda" else load()
