"""Sizes of output grids."""

from collections.abc import Sequence

from anybev.patches.rulebook import Geometry
from anybev.patches.spconv.core import ConvAlgo

__all__ = ["ConvAlgo", "get_conv_output_size", "get_deconv_output_size"]


def get_conv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Cells of the grid after a convolution, one number an axis."""
    geometry = Geometry(
        tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), (0,) * len(kernel_size)
    )
    return list(geometry.out_shape(tuple(input_size)))


def get_deconv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> list[int]:
    """Cells of the grid after a transposed convolution; as in spconv, dilation does not count."""
    geometry = Geometry(
        tuple(kernel_size),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        tuple(output_padding),
        transposed=True,
    )
    return list(geometry.out_shape(tuple(input_size)))
