"""Masked convolution and point-wise attention masks of ``mmcv._ext``: gathers of pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from anybev.patches.ext._table import supplies

_COLLECT = 0


@supplies()
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Patches around chosen pixels (mmcv ``masked_im2col_forward``).

    Args:
        im: (1, C, H, W) float, zero outside.
        mask_h_idx: (M,) int64, row of a patch's first pixel, counted with the padding.
        mask_w_idx: (M,) int64, its column.
        col: (C * kernel_h * kernel_w, M), set.
        kernel_h: rows of a patch.
        kernel_w: columns of a patch.
        pad_h: rows of zeros above and below.
        pad_w: columns of zeros left and right.
    """
    # A patch of the last pixels may reach farther than the padding.
    padded = F.pad(im[0], (pad_w, pad_w + kernel_w, pad_h, pad_h + kernel_h))
    device = im.device
    y = mask_h_idx[None, :] + torch.arange(kernel_h, device=device)[:, None]
    x = mask_w_idx[None, :] + torch.arange(kernel_w, device=device)[:, None]
    patches = padded[:, y[:, None], x[None, :]]  # (C, kernel_h, kernel_w, M)
    col.copy_(patches.reshape(col.shape))


@supplies()
def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Put ``col`` (C, M) at the chosen pixels of ``im`` (1, C, H, W); other pixels stay."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def _row_index(
    row: int, columns: int, half: tuple[int, int], feature: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The feature that each (mask column, h, w) of a mask row looks at, and if it exists."""
    height, width = feature
    column = torch.arange(columns, device=device)[:, None, None]
    h = torch.arange(height, device=device)[:, None]
    w = torch.arange(width, device=device)
    y, x = torch.broadcast_tensors(row + h - half[0], column + w - half[1])
    there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return torch.where(there, y * width + x, 0), there


@supplies()
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spread each pixel's attention mask over the feature map (mmcv ``psamask_forward``).

    Args:
        input: (num_, h_mask * w_mask, h_feature, w_feature).
        output: (num_, h_feature * w_feature, h_feature, w_feature), set where a mask reaches.
        psa_type: 0 collects: channel is the pixel looked at; 1 distributes: the other way round.
        num_: images.
        h_feature: rows of the map.
        w_feature: columns of the map.
        h_mask: rows of a mask.
        w_mask: columns of a mask.
        half_h_mask: row of a mask's centre.
        half_w_mask: column of a mask's centre.
    """
    feature, half = (h_feature, w_feature), (half_h_mask, half_w_mask)
    pixels = h_feature * w_feature
    masks = input.reshape(num_, h_mask, w_mask, pixels)
    own = torch.arange(pixels, device=input.device)
    table = output.reshape(num_, pixels, pixels)
    if psa_type != _COLLECT:
        table = table.transpose(1, 2)
    for row in range(h_mask):
        seen, there = _row_index(row, w_mask, half, feature, input.device)
        column, at = there.flatten(1).nonzero(as_tuple=True)
        table[:, seen.flatten(1)[column, at], own[at]] = masks[:, row, column, at]
    if psa_type != _COLLECT:
        table = table.transpose(1, 2)
    output.copy_(table.reshape(output.shape))


@supplies()
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Gradient of ``psamask_forward``, set in ``grad_input`` where a mask reaches."""
    feature, half = (h_feature, w_feature), (half_h_mask, half_w_mask)
    pixels = h_feature * w_feature
    table = grad_output.reshape(num_, pixels, pixels)
    if psa_type != _COLLECT:
        table = table.transpose(1, 2)
    own = torch.arange(pixels, device=grad_output.device)
    masks = grad_input.reshape(num_, h_mask, w_mask, pixels).clone()
    for row in range(h_mask):
        seen, there = _row_index(row, w_mask, half, feature, grad_output.device)
        column, at = there.flatten(1).nonzero(as_tuple=True)
        masks[:, row, column, at] = table[:, seen.flatten(1)[column, at], own[at]]
    grad_input.copy_(masks.reshape(grad_input.shape))
