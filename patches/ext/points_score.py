"""Names of ``mmcv._ext`` for PAConv: neighbours' features weighted by scores."""

from collections.abc import Iterator

import torch
from torch import Tensor

from anybev.patches.ext._table import supplies

# Elements of neighbours' features held at once.
_ELEMENTS_AT_ONCE = 1 << 22


def _neighbours(knn_idx: Tensor, N0: int, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of centres of one sample: where, their (rows, K) points, and which of them count.

    A neighbour outside [0, N0) does not count, and neither does a centre whose first neighbour,
    the centre itself, is outside.
    """
    rows = max(1, _ELEMENTS_AT_ONCE // max(1, knn_idx.shape[1] * size))
    for i in range(0, knn_idx.shape[0], rows):
        block = slice(i, min(i + rows, knn_idx.shape[0]))
        idx = knn_idx[block].long()
        counts = (idx >= 0) & (idx < N0)
        counts &= counts[:, :1].clone()
        yield block, torch.where(counts, idx, 0), counts


def _differences(points: Tensor, centers: Tensor, idx: Tensor) -> Tensor:
    """(rows, K, M, O) features of the neighbours less those of their centre."""
    return points[idx] - centers[idx[:, :1]]


@supplies()
@torch.no_grad()
def assign_score_withk_forward(
    points: Tensor,
    centers: Tensor,
    scores: Tensor,
    knn_idx: Tensor,
    output: Tensor,
    B: int,
    N0: int,
    N1: int,
    M: int,
    K: int,
    O: int,  # noqa: E741
    aggregate: int,
) -> None:
    """Sum over a weight bank: score x (neighbour's features - centre's features).

    Upstream: mmcv assign_score_withk_forward. The first neighbour is the centre. A neighbour
    outside [0, N0) leaves its output as it was. ``aggregate`` is not looked at, in mmcv neither:
    the neighbours are never aggregated.

    Args:
        points: (B, N0, M, O) floating, features of each point under each of M matrices.
        centers: (B, N0, M, O), the same for a point that is a centre.
        scores: (B, N1, K, M).
        knn_idx: (B, N1, K) integer.
        output: (B, O, N1, K), added to.
        B: batch size.
        N0: points.
        N1: centres.
        M: matrices of the weight bank.
        K: neighbours of a centre.
        O: channels.
        aggregate: 0 sum, 1 avg, 2 max; without effect.
    """
    if points.numel() == 0:
        return
    for i in range(B):
        for block, idx, counts in _neighbours(knn_idx[i], N0, M * O):
            difference = _differences(points[i], centers[i], idx)
            score = scores[i, block] * counts[..., None]
            total = (score[..., None, :] @ difference).squeeze(-2)
            output[i, :, block] += total.permute(2, 0, 1)


@supplies()
@torch.no_grad()
def assign_score_withk_backward(
    grad_out: Tensor,
    points: Tensor,
    centers: Tensor,
    scores: Tensor,
    knn_idx: Tensor,
    grad_points: Tensor,
    grad_centers: Tensor,
    grad_scores: Tensor,
    B: int,
    N0: int,
    N1: int,
    M: int,
    K: int,
    O: int,  # noqa: E741
    aggregate: int,
) -> None:
    """Gradients of ``assign_score_withk_forward``.

    Upstream: mmcv assign_score_withk_backward.

    Args:
        grad_out: (B, O, N1, K) floating.
        points: (B, N0, M, O).
        centers: (B, N0, M, O).
        scores: (B, N1, K, M).
        knn_idx: (B, N1, K) integer.
        grad_points: (B, N0, M, O), added to.
        grad_centers: (B, N0, M, O), added to.
        grad_scores: (B, N1, K, M), added to.
        B: batch size.
        N0: points.
        N1: centres.
        M: matrices of the weight bank.
        K: neighbours of a centre.
        O: channels.
        aggregate: without effect.
    """
    if points.numel() == 0:
        return
    for i in range(B):
        for block, idx, counts in _neighbours(knn_idx[i], N0, M * O):
            grad = grad_out[i, :, block].permute(1, 2, 0) * counts[..., None]
            difference = _differences(points[i], centers[i], idx)
            grad_scores[i, block] += (difference @ grad[..., None]).squeeze(-1)
            part = scores[i, block][..., None] * grad[..., None, :]
            grad_points[i].index_add_(0, idx.reshape(-1), part.reshape(-1, M, O))
            grad_centers[i].index_add_(0, idx[:, 0], part.sum(1), alpha=-1)
