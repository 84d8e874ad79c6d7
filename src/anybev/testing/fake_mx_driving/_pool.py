"""BEV pooling: sums by cell, as mx_driving's documentation writes them."""

import torch
from torch import Tensor


def npu_bev_pool_v3(
    depth: Tensor | None,
    features: Tensor,
    by_depth: Tensor | None,
    by_pixel: Tensor | None,
    cell: Tensor,
    b: int,
    d: int,
    h: int,
    w: int,
) -> Tensor:
    """(b, d, h, w, C): sums by cell of the features, times their depth's weight where there is."""
    channels = features.shape[-1]
    rows = features.reshape(-1, channels)
    if depth is not None and by_depth is not None and by_pixel is not None:
        rows = depth.flatten()[by_depth.long()][:, None] * rows[by_pixel.long()]
    out = torch.zeros(b * d * h * w, channels).index_add_(0, cell.long(), rows)
    return out.view(b, d, h, w, channels)


def npu_bev_pool_v3_backward(
    grad: Tensor,
    depth: Tensor | None,
    features: Tensor,
    by_depth: Tensor | None,
    by_pixel: Tensor | None,
    cell: Tensor,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of depth, where there is one, and features."""
    channels = features.shape[-1]
    given = grad.reshape(-1, channels)[cell.long()]
    if depth is None or by_depth is None or by_pixel is None:
        return None, given
    at, pixel = by_depth.long(), by_pixel.long()
    rows = features.reshape(-1, channels)
    weights = depth.flatten()[at]
    grad_depth = torch.zeros(depth.numel()).index_add_(0, at, (given * rows[pixel]).sum(1))
    grad_features = torch.zeros_like(rows).index_add_(0, pixel, weights[:, None] * given)
    return grad_depth.view(depth.shape), grad_features.view(features.shape)
