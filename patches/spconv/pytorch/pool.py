"""Pools over occupied cells with spconv 2's names and arguments."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from anybev.patches.rulebook import (
    Geometry,
    MaximumOfPairs,
    Pairs,
    build_rulebook,
    pairs_by_tap,
)
from anybev.patches.spconv.core import ConvAlgo
from anybev.patches.spconv.pytorch.core import IndiceData, SparseConvTensor, expand_nd
from anybev.patches.spconv.pytorch.modules import SparseModule

__all__ = [
    "SparseAvgPool",
    "SparseAvgPool1d",
    "SparseAvgPool2d",
    "SparseAvgPool3d",
    "SparseGlobalAvgPool",
    "SparseGlobalMaxPool",
    "SparseMaxPool",
    "SparseMaxPool1d",
    "SparseMaxPool2d",
    "SparseMaxPool3d",
    "SparseMaxPool4d",
]

Numbers = int | Sequence[int]


class _Pool(SparseModule):
    """One number a channel of what a window holds.

    Args:
        ndim: axes of the grid.
        kernel_size, padding, dilation: one number, or one an axis.
        stride: likewise; None is the kernel's size.
        indice_key: name under which the plan is kept, for a ``SparseInverseConv``.
        subm: outputs at the input's cells only.
        algo, record_voxel_count: without effect.
        name: of the layer.
    """

    def __init__(
        self,
        ndim: int,
        kernel_size: Numbers = 3,
        stride: Numbers | None = 1,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        indice_key: str | None = None,
        subm: bool = False,
        algo: ConvAlgo | None = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.ndim = ndim
        self.kernel_size = expand_nd(ndim, kernel_size)
        self.stride = list(self.kernel_size) if stride is None else expand_nd(ndim, stride)
        self.padding = expand_nd(ndim, padding)
        self.dilation = expand_nd(ndim, dilation)
        self.indice_key = indice_key
        self.subm = subm
        self.algo = ConvAlgo.Native if algo is None else algo

    @property
    def geometry(self) -> Geometry:
        """Which cells feed which."""
        stride, padding = tuple(self.stride), tuple(self.padding)
        if self.subm:
            axes = zip(self.kernel_size, self.dilation, strict=True)
            stride, padding = (1,) * self.ndim, tuple(k // 2 * d for k, d in axes)
        none = (0,) * self.ndim
        return Geometry(
            tuple(self.kernel_size), stride, padding, tuple(self.dilation), none, subm=self.subm
        )

    def reduce(self, features: Tensor, pairs: list[Pairs], rows: int) -> Tensor:
        """(rows, C) of the (source row, row) pairs of every tap."""
        raise NotImplementedError

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        """Pool.

        Raises:
            ValueError: the indice_key is taken.
        """
        if input.find_indice_pair(self.indice_key) is not None:
            raise ValueError(
                f"{type(self).__name__}: indice_key must be new, got {self.indice_key!r} a second "
                "time"
            )
        geometry, shape = self.geometry, tuple(input.spatial_shape)
        book = build_rulebook(input.indices, shape, input.batch_size, geometry)
        data = IndiceData(input.indices, input.spatial_shape, book, geometry, self.algo)
        kept = input.indice_dict
        if self.indice_key is not None:
            kept = {**kept, self.indice_key: data}
        pairs = pairs_by_tap(book.plan)
        features = self.reduce(input.features, pairs, len(book.out_indices))
        return input.moved(features, data.out_indices, data.out_spatial_shape, kept)

    def extra_repr(self) -> str:
        """Geometry."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}"
        )


class SparseMaxPool(_Pool):
    """Largest of zero and the features in a window; see ``rulebook.maximum_of_pairs``.

    All features that equal the maximum get its whole gradient, as in spconv.
    """

    def reduce(self, features: Tensor, pairs: list[Pairs], rows: int) -> Tensor:
        """The maximum."""
        out: Tensor = MaximumOfPairs.apply(features, pairs, rows)  # type: ignore[no-untyped-call]
        return out


class SparseAvgPool(_Pool):
    """Mean of the features in a window, over the cells that are there."""

    def reduce(self, features: Tensor, pairs: list[Pairs], rows: int) -> Tensor:
        """The mean."""
        source = torch.cat([source for source, _ in pairs])
        row = torch.cat([row for _, row in pairs])
        total = features.new_zeros((rows, features.shape[1]))
        total = total.index_add(0, row, features[source])
        return total / row.bincount(minlength=rows)[:, None].to(total.dtype)


class _OfItsAxes(_Pool):
    """A pool whose class says over how many axes."""

    axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        record_voxel_count: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self.axes, kernel_size, stride, padding, dilation, indice_key, algo=algo, name=name
        )


class _Max(_OfItsAxes, SparseMaxPool):
    """Maximum."""


class _Mean(_OfItsAxes, SparseAvgPool):
    """Mean."""


class SparseMaxPool1d(_Max):
    """Maximum over one axis."""

    axes = 1


class SparseMaxPool2d(_Max):
    """Maximum over two axes."""

    axes = 2


class SparseMaxPool3d(_Max):
    """Maximum over three axes."""

    axes = 3


class SparseMaxPool4d(_Max):
    """Maximum over four axes."""

    axes = 4


class SparseAvgPool1d(_Mean):
    """Mean over one axis."""

    axes = 1


class SparseAvgPool2d(_Mean):
    """Mean over two axes."""

    axes = 2


class SparseAvgPool3d(_Mean):
    """Mean over three axes."""

    axes = 3


class SparseGlobalMaxPool(SparseModule):
    """(B, C): largest feature of each sample; zero without a cell."""

    def forward(self, input: SparseConvTensor) -> Tensor:
        """The maximum."""
        features, sample = input.features, input.indices[:, :1].long()
        out = features.new_zeros((input.batch_size, features.shape[1]))
        return out.scatter_reduce(
            0, sample.expand_as(features), features, "amax", include_self=False
        )


class SparseGlobalAvgPool(SparseModule):
    """(B, C): mean of each sample's features; zero without a cell.

    spconv 2.3.8 keeps the first channel's alone, which is not imitated.
    """

    def forward(self, input: SparseConvTensor) -> Tensor:
        """The mean."""
        features, sample = input.features, input.indices[:, 0].long()
        total = features.new_zeros((input.batch_size, features.shape[1]))
        total = total.index_add(0, sample, features)
        cells = sample.bincount(minlength=input.batch_size).clamp_(min=1)
        return total / cells[:, None].to(total.dtype)
