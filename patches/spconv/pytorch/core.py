"""Features at the occupied cells of a grid, as spconv 2 hands them from layer to layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anybev.patches.rulebook import Geometry, Rulebook, pairs_by_tap, table_of_pairs
from anybev.patches.spconv.core import ConvAlgo

__all__ = ["IndiceData", "SparseConvTensor", "expand_nd"]


def expand_nd(ndim: int, val: int | Sequence[int]) -> list[int]:
    """``val`` as one integer an axis.

    Raises:
        ValueError: there are more or fewer than ``ndim``.
    """
    values = [val] * ndim if isinstance(val, int) else [int(v) for v in val]
    if len(values) != ndim:
        raise ValueError(f"spconv: one number an axis is needed, {ndim}, got {val}")
    return values


class IndiceData:
    """Who feeds whom, kept under an ``indice_key``.

    Attributes:
        indices, out_indices: sites before and after.
        spatial_shape, out_spatial_shape: cells of both grids.
        is_subm, ksize, stride, padding, dilation: geometry of the layer that made it.
        plan: what ``sparse_conv`` runs.
    """

    def __init__(
        self,
        indices: Tensor,
        spatial_shape: list[int],
        book: Rulebook,
        geometry: Geometry,
        algo: ConvAlgo,
    ) -> None:
        self.indices = indices
        self.out_indices = book.out_indices
        self.spatial_shape = spatial_shape
        self.out_spatial_shape = list(book.out_shape)
        self.is_subm = geometry.subm
        self.algo = algo
        self.ksize = list(geometry.kernel_size)
        self.stride = list(geometry.stride)
        self.padding = list(geometry.padding)
        self.dilation = list(geometry.dilation)
        self.voxel_num = None
        self.plan = book.plan

    @cached_property
    def indice_pairs(self) -> Tensor:
        """(2, K, N) int32: input and output row of every pair, -1 after the last."""
        table = table_of_pairs(pairs_by_tap(self.plan), len(self.indices), like=self.indices)
        return table.transpose(0, 1).contiguous()

    @cached_property
    def indice_pair_num(self) -> Tensor:
        """(K,) int32: pairs of each tap."""
        return (self.plan.table >= 0).sum(0, dtype=torch.int32)


class SparseConvTensor:
    """Features of occupied cells.

    Args:
        features: (N, C).
        indices: (N, 1 + axes) int32, columns (batch, cells), the cells in the order of
            ``spatial_shape``, whatever axes these are.
        spatial_shape: cells along each axis.
        batch_size: samples, also those without a cell.
        grid, voxel_num, benchmark, permanent_thrust_allocator, enable_timer, force_algo: kept for
            those who pass them; without effect.
        indice_dict: plans under the keys of the layers that made them.

    Raises:
        TypeError: indices are not int32.
        ValueError: a shape does not fit the others.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int] | Tensor,
        batch_size: int,
        grid: Tensor | None = None,
        voxel_num: Tensor | None = None,
        indice_dict: dict[str, IndiceData] | None = None,
        benchmark: bool = False,
        permanent_thrust_allocator: bool = False,
        enable_timer: bool = False,
        force_algo: ConvAlgo | None = None,
    ) -> None:
        if indices.dtype != torch.int32:
            raise TypeError(f"SparseConvTensor: indices must be int32, got {indices.dtype}")
        self._features = features
        self.indices = indices
        self.spatial_shape = [int(size) for size in spatial_shape]
        self.batch_size = int(batch_size)
        self.indice_dict: dict[str, IndiceData] = {} if indice_dict is None else indice_dict
        self.grid = torch.empty(0) if grid is None else grid
        self.voxel_num = voxel_num
        self.benchmark = benchmark
        self.benchmark_record: dict[str, Any] = {}
        self.thrust_allocator = None
        self.force_algo = force_algo
        self.int8_scale = None
        self._check()

    def _check(self) -> None:
        columns = 1 + len(self.spatial_shape)
        if self.indices.ndim != 2 or self.indices.shape[1] != columns:
            raise ValueError(
                f"SparseConvTensor: indices must be (N, {columns}) for spatial_shape "
                f"{self.spatial_shape}, got {tuple(self.indices.shape)}"
            )
        if self._features.ndim != 2 or len(self._features) != len(self.indices):
            raise ValueError(
                f"SparseConvTensor: features must be ({len(self.indices)}, C), got "
                f"{tuple(self._features.shape)}"
            )
        if self.batch_size < 1:
            raise ValueError(
                f"SparseConvTensor: batch_size must be at least 1, got {self.batch_size}"
            )

    def __repr__(self) -> str:
        return f"SparseConvTensor[shape={self._features.shape}]"

    @property
    def features(self) -> Tensor:
        """(N, C)."""
        return self._features

    @features.setter
    def features(self, val: Tensor) -> None:
        raise ValueError(
            "SparseConvTensor: features must be replaced, got an assignment; try "
            "x = x.replace_feature(features)"
        )

    @property
    def is_quantized(self) -> bool:
        """Never: there is no quantised convolution."""
        return False

    @property
    def spatial_size(self) -> int:
        """Cells of the grid."""
        return math.prod(self.spatial_shape)

    def shadow_copy(self) -> SparseConvTensor:
        """Another tensor with the same contents."""
        return copy.copy(self)

    def replace_feature(self, feature: Tensor) -> SparseConvTensor:
        """The same cells with other features."""
        new = copy.copy(self)
        new._features = feature
        return new

    def moved(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: list[int],
        indice_dict: dict[str, IndiceData],
    ) -> SparseConvTensor:
        """What a layer hands on: other cells as well."""
        new = self.replace_feature(features)
        new.indices = indices
        new.spatial_shape = spatial_shape
        new.indice_dict = indice_dict
        return new

    def select_by_index(self, valid_indices: Tensor) -> SparseConvTensor:
        """Some of the cells, without the plans of all."""
        features, indices = self.features[valid_indices], self.indices[valid_indices]
        return self.moved(features, indices, self.spatial_shape, {})

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseConvTensor:
        """Cells of a (B, cells, C) tensor that are not zero throughout."""
        sparse = x.to_sparse(x.ndim - 1).coalesce()
        indices = sparse.indices().t().contiguous().int()
        return cls(sparse.values(), indices, x.shape[1:-1], x.shape[0])

    def find_indice_pair(self, key: str | None) -> IndiceData | None:
        """The plan under a key, or None."""
        return None if key is None else self.indice_dict.get(key)

    def dense(self, channels_first: bool = True) -> Tensor:
        """(B, C, cells), or (B, cells, C), zeros at the free cells; differentiable."""
        shape = [self.batch_size, *self.spatial_shape]
        row = self.indices[:, 0].long()
        for axis, size in enumerate(self.spatial_shape, 1):
            row = row * size + self.indices[:, axis]
        channels = self.features.shape[1]
        flat = self.features.new_zeros(math.prod(shape), channels)
        grid = flat.index_copy(0, row, self.features).view(*shape, channels)
        return grid.movedim(-1, 1).contiguous() if channels_first else grid

    def minus(self) -> SparseConvTensor:
        """The same cells, features negated."""
        return self.replace_feature(-self.features)

    def __add__(self, other: SparseConvTensor | Tensor) -> SparseConvTensor:
        added = other.features if isinstance(other, SparseConvTensor) else other
        return self.replace_feature(self.features + added)

    __radd__ = __add__
    __iadd__ = __add__
