"""BEV pooling: one addition a point."""

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
    out = torch.zeros(b * d * h * w, channels)
    rows = features.reshape(-1, channels)
    for point, target in enumerate(cell.tolist()):
        if depth is None or by_depth is None or by_pixel is None:
            out[target] += rows[point]
        else:
            out[target] += depth.flatten()[by_depth[point]] * rows[by_pixel[point]]
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
    grad_depth, grad_features = torch.zeros_like(depth), torch.zeros_like(features)
    rows = features.reshape(-1, channels)
    for point, row in enumerate(given):
        at, pixel = int(by_depth[point]), int(by_pixel[point])
        grad_depth.view(-1)[at] += row @ rows[pixel]
        grad_features.view(-1, channels)[pixel] += depth.reshape(-1)[at] * row
    return grad_depth, grad_features
