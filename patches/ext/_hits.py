"""The first few entries of each row or group."""

import torch
from torch import Tensor


def rank_in_group(group: Tensor, count: Tensor) -> Tensor:
    """(P,) position from 0 of each entry within its group.

    Args:
        group: (P,) int64, ascending.
        count: (G,) int64, entries of each group.
    """
    return torch.arange(group.shape[0], device=group.device) - (count.cumsum(0) - count)[group]


def first_hits(hit: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first ``limit`` true entries of each row, row by row in ascending column.

    Args:
        hit: (R, N) bool.
        limit: entries kept a row.

    Returns:
        row, rank within the row from 0, and column, each (H,) int64; and the true entries of each
        row, (R,) int64, those beyond ``limit`` counted.
    """
    row, column = hit.nonzero(as_tuple=True)
    count = torch.bincount(row, minlength=hit.shape[0])
    rank = rank_in_group(row, count)
    kept = rank < limit
    return row[kept], rank[kept], column[kept], count
