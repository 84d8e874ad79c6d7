"""Content-aware upsampling (CARAFE) of ``mmcv._ext``: a loop over the taps of the kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from anybev.patches.ext._table import supplies


def _shape(features: Tensor, groups: int, scale: int) -> tuple[int, ...]:
    """Output shape with groups and sub-pixels split: (N, G, C / G, H, scale, W, scale)."""
    n, c, h, w = features.shape
    return n, groups, c // groups, h, scale, w, scale


def _split_masks(masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """(N, G * K * K, H * s, W * s) -> (K * K, N, G, 1, H, s, W, s)."""
    n, _, h, w = masks.shape
    split = masks.reshape(n, groups, kernel * kernel, h // scale, scale, w // scale, scale)
    return split.permute(2, 0, 1, 3, 4, 5, 6).unsqueeze(3)


def _windows(kernel: int, height: int, width: int) -> list[tuple[slice, slice]]:
    """Window of the padded map that each tap looks at."""
    return [
        (slice(i, i + height), slice(j, j + width)) for i in range(kernel) for j in range(kernel)
    ]


def _forward(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    shape = _shape(features, groups, scale)
    padded = F.pad(features, [kernel // 2] * 4)
    total = features.new_zeros(shape)
    taps = zip(
        _windows(kernel, *features.shape[2:]),
        _split_masks(masks, kernel, groups, scale),
        strict=True,
    )
    for (rows, columns), mask in taps:
        seen = padded[:, :, rows, columns].reshape(*shape[:4], 1, shape[5], 1)
        total.addcmul_(seen.expand(shape), mask.expand(shape))
    n, c, h, w = features.shape
    return total.view(n, c, h * scale, w * scale)


def _backward(
    grad_output: Tensor, features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int
) -> tuple[Tensor, Tensor]:
    shape = _shape(features, groups, scale)
    n, c, height, width = features.shape
    padded = F.pad(features, [kernel // 2] * 4)
    grad = grad_output.reshape(shape)
    grad_padded = torch.zeros_like(padded)
    grad_masks = []
    taps = zip(
        _windows(kernel, height, width), _split_masks(masks, kernel, groups, scale), strict=True
    )
    for (rows, columns), mask in taps:
        grad_padded[:, :, rows, columns] += (grad * mask).sum((4, 6)).view(n, c, height, width)
        seen = padded[:, :, rows, columns].reshape(*shape[:4], 1, shape[5], 1)
        grad_masks.append((grad * seen).sum(2))
    inner = slice(kernel // 2, kernel // 2 + height), slice(kernel // 2, kernel // 2 + width)
    return grad_padded[:, :, inner[0], inner[1]], torch.stack(grad_masks, 2).reshape(masks.shape)


@supplies()
def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """CARAFE (mmcv ``carafe_naive_forward``): each output pixel is its own mask over a window.

    Args:
        features: (N, C, H, W) float, zero outside.
        masks: (N, group_size * kernel_size**2, H * scale_factor, W * scale_factor).
        output: (N, C, H * scale_factor, W * scale_factor), set.
        kernel_size: odd, the window's side.
        group_size: groups of channels, each with masks of its own.
        scale_factor: output pixels a feature pixel, along each axis.
    """
    output.copy_(_forward(features, masks, kernel_size, group_size, scale_factor))


@supplies()
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of ``carafe_naive_forward``, added to ``bottom_grad`` and ``mask_grad``."""
    found = _backward(top_grad, features, masks, kernel_size, group_size, scale_factor)
    bottom_grad += found[0]
    mask_grad += found[1]


@supplies()
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """``carafe_naive_forward``, and its tensors with channels last.

    ``rfeatures``, ``routput`` and ``rmasks`` are resized to (N, H, W, C) of features, output and
    masks and set, as upstream: the backward pass gets the first of them.
    """
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)
    for last, first in ((rfeatures, features), (routput, output), (rmasks, masks)):
        moved = first.permute(0, 2, 3, 1)
        last.resize_(moved.shape).copy_(moved)


@supplies()
def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of ``carafe_forward``; ``bottom_grad`` and ``mask_grad`` are set.

    ``rfeatures`` is (N, H, W, C), from the forward pass; the other names with an r are upstream's
    scratch and not touched.
    """
    features = rfeatures.permute(0, 3, 1, 2)
    found = _backward(top_grad, features, masks, kernel_size, group_size, scale_factor)
    bottom_grad.copy_(found[0])
    mask_grad.copy_(found[1])
