"""Sparse convolutions with spconv 2's names, arguments and weights."""

from collections.abc import Sequence
from typing import ClassVar

from anybev.patches.spconv.core import ConvAlgo
from anybev.patches.spconv.pytorch.convolution import SparseConvolution

__all__ = [
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseConv4d",
    "SparseConvTranspose1d",
    "SparseConvTranspose2d",
    "SparseConvTranspose3d",
    "SparseConvTranspose4d",
    "SparseConvolution",
    "SparseInverseConv1d",
    "SparseInverseConv2d",
    "SparseInverseConv3d",
    "SparseInverseConv4d",
    "SubMConv1d",
    "SubMConv2d",
    "SubMConv3d",
    "SubMConv4d",
]

Numbers = int | Sequence[int]


class _Strided(SparseConvolution):
    """Outputs wherever a kernel reaches an input."""

    axes: ClassVar[int]
    is_transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self.axes,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            transposed=self.is_transposed,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            record_voxel_count=record_voxel_count,
            name=name,
        )


class _Submanifold(SparseConvolution):
    """Outputs at the input's cells."""

    axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self.axes,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            subm=True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            name=name,
        )


class _Inverse(SparseConvolution):
    """The layer of the same ``indice_key`` backwards: outputs at the cells before it."""

    axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        indice_key: str,
        bias: bool = True,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(
            self.axes,
            in_channels,
            out_channels,
            kernel_size,
            bias=bias,
            inverse=True,
            indice_key=indice_key,
            algo=algo,
            fp32_accum=fp32_accum,
            name=name,
        )


class SparseConv1d(_Strided):
    """Strided convolution over one axis."""

    axes = 1


class SparseConv2d(_Strided):
    """Strided convolution over two axes."""

    axes = 2


class SparseConv3d(_Strided):
    """Strided convolution over three axes."""

    axes = 3


class SparseConv4d(_Strided):
    """Strided convolution over four axes."""

    axes = 4


class SparseConvTranspose1d(_Strided):
    """Transposed convolution over one axis."""

    axes = 1
    is_transposed = True


class SparseConvTranspose2d(_Strided):
    """Transposed convolution over two axes."""

    axes = 2
    is_transposed = True


class SparseConvTranspose3d(_Strided):
    """Transposed convolution over three axes."""

    axes = 3
    is_transposed = True


class SparseConvTranspose4d(_Strided):
    """Transposed convolution over four axes."""

    axes = 4
    is_transposed = True


class SubMConv1d(_Submanifold):
    """Submanifold convolution over one axis."""

    axes = 1


class SubMConv2d(_Submanifold):
    """Submanifold convolution over two axes."""

    axes = 2


class SubMConv3d(_Submanifold):
    """Submanifold convolution over three axes."""

    axes = 3


class SubMConv4d(_Submanifold):
    """Submanifold convolution over four axes."""

    axes = 4


class SparseInverseConv1d(_Inverse):
    """Inverse of a strided convolution over one axis."""

    axes = 1


class SparseInverseConv2d(_Inverse):
    """Inverse of a strided convolution over two axes."""

    axes = 2


class SparseInverseConv3d(_Inverse):
    """Inverse of a strided convolution over three axes."""

    axes = 3


class SparseInverseConv4d(_Inverse):
    """Inverse of a strided convolution over four axes."""

    axes = 4
