"""Precise RoI pooling of ``mmcv._ext``: the bilinear surface integrated axis by axis."""

from collections.abc import Iterator

import torch
from torch import Tensor

from anybev.patches.ext._table import supplies

_PIECE_VALUES = 10_000_000


def _share(low: Tensor, high: Tensor, size: int) -> Tensor:
    """How much of each pixel lies between ``low`` and ``high`` (..., bins): (..., bins, size).

    A pixel's share falls linearly to zero at its neighbours, so the integral is exact.
    """
    pixel = torch.arange(size, device=low.device, dtype=low.dtype)

    def below(at: Tensor) -> Tensor:
        d = (at[..., None] - pixel).clamp(-1, 1)
        return torch.where(d < 0, (1 + d) ** 2 / 2, 1 - (1 - d) ** 2 / 2)

    return below(high) - below(low)


def _pool(images: Tensor, rois: Tensor, bins: tuple[int, int], scale: float) -> Tensor:
    """(R, C, rows, columns); differentiable in images (B, C, H, W) and regions (R, 5)."""
    shares, area = [], images.new_ones(())
    for axis, count, size in ((2, bins[0], images.shape[2]), (1, bins[1], images.shape[3])):
        low = rois[:, axis, None] * scale
        step = (rois[:, axis + 2, None] * scale - low).clamp(min=0) / count
        start = low + step * torch.arange(count, device=rois.device, dtype=rois.dtype)
        shares.append(_share(start, start + step, size))
        area = area * step
    total = torch.einsum("rph,rchw->rcpw", shares[0], images[rois[:, 0].detach().long()])
    total = torch.einsum("rcpw,rqw->rcpq", total, shares[1])
    area = area[:, :, None, None]
    return torch.where(area > 0, total / torch.where(area > 0, area, 1), 0)


def _pieces(images: Tensor, rois: Tensor) -> Iterator[slice]:
    step = max(1, _PIECE_VALUES // max(1, images[0].numel()))
    for begin in range(0, len(rois), step):
        yield slice(begin, min(begin + step, len(rois)))


@supplies()
def prroi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Precise RoI pooling (mmcv ``prroi_pool_forward``): the mean of the bilinear surface a bin.

    Args:
        input: (B, C, H, W) float32, zero outside.
        rois: (R, 5), image index and x1, y1, x2, y2 in pixels of the unscaled image.
        output: (R, C, pooled_height, pooled_width), set; 0 for a region without extent.
        pooled_height: bins along y.
        pooled_width: bins along x.
        spatial_scale: pixels of ``input`` a pixel of the regions.
    """
    for part in _pieces(input, rois):
        output[part] = _pool(input, rois[part], (pooled_height, pooled_width), spatial_scale)


@supplies()
def prroi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of ``prroi_pool_forward`` by image, added to ``grad_input``."""
    images = torch.zeros_like(grad_input, requires_grad=True)
    for part in _pieces(images, rois):
        with torch.enable_grad():
            value = _pool(images, rois[part], (pooled_height, pooled_width), spatial_scale)
        grad_input += torch.autograd.grad(value, images, grad_output[part])[0]


@supplies()
def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    grad_rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of ``prroi_pool_forward`` by region, added to ``grad_rois`` (R, 5).

    ``output`` is the forward pass's and not needed here. The image index gets gradient 0.
    """
    for part in _pieces(input, rois):
        leaf = rois[part].detach().requires_grad_()
        with torch.enable_grad():
            value = _pool(input, leaf, (pooled_height, pooled_width), spatial_scale)
        grad_rois[part] += torch.autograd.grad(value, leaf, grad_output[part])[0]
