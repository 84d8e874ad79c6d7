"""Deformable convolution (v1 and v2) under its names of ``mmcv._ext``."""

from torch import Tensor

from anybev.patches.ext._deform import Geometry, Gradients, deform_backward, deform_forward
from anybev.patches.ext._table import supplies


@supplies()
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution v1 (mmcv ``deform_conv_forward``).

    Args:
        input: (B, C, H, W) float. Samples outside are zero.
        weight: (O, C / group, kH, kW).
        offset: (B, deformable_group * kH * kW * 2, H_out, W_out), pixels, (y, x) a tap.
        output: (B, O, H_out, W_out), set.
        columns: upstream's scratch; not touched.
        ones: as ``columns``.
        kW: kernel width; kH its height, and so on: width comes first, as upstream.
        kH: kernel height.
        dW: stride along x.
        dH: stride along y.
        padW: zeros along x.
        padH: zeros along y.
        dilationW: step between taps along x.
        dilationH: step between taps along y.
        group: blocks of channels that do not mix.
        deformable_group: blocks of channels with offsets of their own.
        im2col_step: images upstream takes at once; the value does not depend on it.

    Raises:
        ValueError: shapes contradict each other.
    """
    geometry = Geometry(
        (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    geometry.check("deform_conv_forward", input, weight, offset)
    deform_forward(geometry, input, weight, offset, None, output)


@supplies()
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of ``deform_conv_forward`` by image and offset: the first added, the second set.

    Shapes are those of the forward arguments; ``columns`` is not touched.

    Raises:
        ValueError: shapes contradict each other.
    """
    geometry = Geometry(
        (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    geometry.check("deform_conv_backward_input", input, weight, offset)
    into = Gradients(images=gradInput, offset=gradOffset)
    deform_backward(geometry, input, weight, offset, None, gradOutput, into)


@supplies()
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of ``deform_conv_forward`` by weight, times ``scale``, added to ``gradWeight``.

    Raises:
        ValueError: shapes contradict each other.
    """
    geometry = Geometry(
        (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    geometry.check("deform_conv_backward_parameters", input, gradWeight, offset)
    into = Gradients(weight=gradWeight, weight_scale=scale)
    deform_backward(geometry, input, gradWeight, offset, None, gradOutput, into)


@supplies()
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution v2 (mmcv ``modulated_deform_conv_forward``): a factor a sample.

    Args:
        input: (B, C, H, W) float. Samples outside are zero.
        weight: (O, C / group, kernel_h, kernel_w).
        bias: (O,), used if ``with_bias``.
        ones: upstream's scratch; not touched.
        offset: (B, deformable_group * kernel_h * kernel_w * 2, H_out, W_out), pixels, (y, x).
        mask: (B, deformable_group * kernel_h * kernel_w, H_out, W_out), the factors.
        output: (B, O, H_out, W_out), set.
        columns: as ``ones``.
        kernel_h: kernel height; height comes first here.
        kernel_w: kernel width.
        stride_h: along y.
        stride_w: along x.
        pad_h: zeros along y.
        pad_w: zeros along x.
        dilation_h: step between taps along y.
        dilation_w: step between taps along x.
        group: blocks of channels that do not mix.
        deformable_group: blocks of channels with offsets of their own.
        with_bias: whether ``bias`` counts.

    Raises:
        ValueError: shapes contradict each other.
    """
    geometry = Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    geometry.check("modulated_deform_conv_forward", input, weight, offset)
    deform_forward(geometry, input, weight, offset, mask, output)
    if with_bias:
        output += bias[:, None, None]


@supplies()
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of ``modulated_deform_conv_forward``.

    Added to ``grad_input``, ``grad_weight`` and ``grad_bias``; ``grad_offset`` and ``grad_mask``
    are set, as upstream. ``ones`` and ``columns`` are not touched.

    Raises:
        ValueError: shapes contradict each other.
    """
    geometry = Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    geometry.check("modulated_deform_conv_backward", input, weight, offset)
    into = Gradients(grad_input, grad_offset, grad_mask, grad_weight)
    deform_backward(geometry, input, weight, offset, mask, grad_output, into)
    if with_bias:
        grad_bias += grad_output.sum((0, 2, 3))
