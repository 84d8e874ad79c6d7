"""Limits of mx_driving's kernels as predicates: an adapter asks them before it calls.

The numbers are those of mx-driving 26.2.0.post2: host checks of its bindings, its dtype tables and
the constraint sections of its documentation. A call outside them is undefined there, so it runs on
the operator's reference instead, with one warning for each operator and limit.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CHANNEL_STEP = 8  # bev_pool_v3, sparse convolutions: 32 bytes of float32
GRADIENT_CHANNEL_STEP = 16  # gradients of strided sparse convolutions
POOL_CHANNELS = 360  # bev_pool_v3
POOL_ELEMENTS = 1 << 31  # bev_pool_v3: values of a BEV map
CONV_CHANNELS = 1024  # output channels of strided, input channels of inverse convolutions
SCATTER_CHANNELS = 2048  # dynamic_scatter
PACKED_CELLS = (2048, 2048, 256)  # x, y, z of a cell in 11 + 11 + 8 bits
PACKED = 1 << 30  # unique_voxel: a packed cell is sorted as the float with its bits
FLOAT_EXACT = 1 << 24  # rows that the voxeliser numbers in float32
VOXEL_POINTS = 1000  # voxelization: points that a voxel keeps
NMS_BOXES = (1 << 15) - 1  # nms3d numbers what it keeps in int16
BOX_PAIRS = 900_000_000  # box_iou_rotated
HEATMAP_CELLS = 1024  # npu_draw_gaussian_to_heatmap: cells of a row
DENSE_MAP_CELLS = 400_000_000  # cells of a sample above which subm plans use a map of two levels
INT32 = (1 << 31) - 1


class KernelFallbackWarning(UserWarning):
    """An operator runs on its reference because a limit of the vendor's kernel does not hold."""


class LimitExceeded(Exception):
    """A call that a vendor's kernel does not take.

    Attributes:
        reason: the limit, in words that do not change from call to call.
        actual: the value that breaks it.
    """

    def __init__(self, reason: str, actual: object) -> None:
        super().__init__(f"{reason}, got {actual}")
        self.reason = reason
        self.actual = actual


class NotForKernel(Exception):
    """A call that the reference answers without a word: it is empty, or the reason is told."""


def require(kept: bool, reason: str, actual: object) -> None:
    """Raise LimitExceeded unless ``kept``."""
    if not kept:
        raise LimitExceeded(reason, actual)


def require_work(*counts: int) -> None:
    """Raise NotForKernel when one of the ``counts`` is 0."""
    if not all(counts):
        raise NotForKernel


def require_single(name: str, *values: Tensor) -> None:
    """``values`` are not float64, which no kernel takes: half precision is raised to float32."""
    for value in values:
        require(value.dtype != torch.float64, f"{name} must not be float64", "float64")


def require_pool(channels: int, batch_size: int, grid: Sequence[int]) -> None:
    """What bev_pool_v3 asks of a BEV map."""
    require(channels % CHANNEL_STEP == 0, f"channels must divide by {CHANNEL_STEP}", channels)
    require(channels <= POOL_CHANNELS, f"channels must be at most {POOL_CHANNELS}", channels)
    values = batch_size * math.prod(grid) * channels
    require(values <= POOL_ELEMENTS, f"values of the map must be at most {POOL_ELEMENTS}", values)


def require_packed(cells: Sequence[int]) -> None:
    """Cells of a grid that the voxeliser packs into one word."""
    kept = all(n <= most for n, most in zip(cells, PACKED_CELLS, strict=True))
    require(kept, f"cells along x, y, z must be at most {PACKED_CELLS}", tuple(cells))
