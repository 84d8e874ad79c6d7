"""The compiled extensions of projects/BEVFusion, where a checkout has not compiled them."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from anybev.patches.ext.projects_bevfusion import BEV_POOL_EXT, VOXEL_LAYER

_OPS = "projects.BEVFusion.bevfusion.ops"


def _module(name: str, functions: Mapping[str, Callable[..., Any]]) -> dict[str, ModuleType]:
    module = ModuleType(name)
    vars(module).update(functions)
    return {name: module}


def bev_pool() -> dict[str, ModuleType]:
    """BEV pooling over camera points."""
    return _module(f"{_OPS}.bev_pool.bev_pool_ext", BEV_POOL_EXT)


def voxel_layer() -> dict[str, ModuleType]:
    """Voxelisation of points."""
    return _module(f"{_OPS}.voxel.voxel_layer", VOXEL_LAYER)
