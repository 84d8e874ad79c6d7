"""Greedy suppression over ranked boxes, whatever the measure of overlap."""

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 256


def keep_greedily(
    count: int, suppresses: Callable[[Tensor, Tensor], Tensor], like: Tensor
) -> Tensor:
    """Keep each box that no better kept one suppresses.

    Boxes are settled in blocks by rank; what a block keeps then meets the boxes still standing, so
    memory is linear in ``count`` and suppressed boxes cost nothing further.

    Args:
        count: number of boxes, best first.
        suppresses: takes ranks (K,) and (L,) of boxes, returns (K, L) bool: would the one, being
            kept, remove the other?
        like: a tensor of the wanted device.

    Returns:
        (kept,) int64 ranks, ascending.
    """
    standing = torch.arange(count, device=like.device)
    kept = [standing[:0]]
    while standing.numel():
        block, standing = standing[:_BLOCK], standing[_BLOCK:]
        block = block[_settled(suppresses(block, block).triu_(1))]
        kept.append(block)
        if standing.numel():
            standing = standing[~suppresses(block, standing).any(0)]
    return torch.cat(kept)


def _settled(suppresses: Tensor) -> Tensor:
    """(N,) bool: what is kept, of boxes whose upper triangle says who removes whom.

    Greedy suppression is the only fixed point: after k rounds at least the first k are settled.
    """
    keep = torch.ones(suppresses.shape[0], dtype=torch.bool, device=suppresses.device)
    for _ in range(suppresses.shape[0]):
        settled = ~(suppresses & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            break
        keep = settled
    return keep
