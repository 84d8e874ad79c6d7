"""Loading of the compiled kernels, and what each backend declares to have."""

import importlib.util
from functools import cache
from pathlib import Path

import torch

from anybev import envs

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
    "cuda": frozenset(),
    "npu": frozenset(),
}


@cache
def load() -> str | None:
    """Load ``anybev/_C`` once; return None, or why there are no compiled kernels."""
    spec = importlib.util.find_spec("anybev")
    folder = Path(next(iter(spec.submodule_search_locations or [])))  # type: ignore[union-attr]
    libraries = sorted(folder.glob("_C*.so"))
    if not libraries:
        return "no compiled kernels: run install.sh on a machine with a C++ compiler"
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError as error:
        return f"{libraries[0].name} does not load ({error}); run install.sh again"
    return None


def why_missing(operator: str) -> str:
    """One phrase on why ``operator`` runs on its reference."""
    if operator in envs.forced_references():
        return f"ANYBEV_OPS forces {operator} to it"
    return load() or "this build has no kernel for it"
