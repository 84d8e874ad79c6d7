"""The first few true entries of each row."""

import torch
from torch import Tensor


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
    rank = torch.arange(row.shape[0], device=row.device) - (count.cumsum(0) - count)[row]
    kept = rank < limit
    return row[kept], rank[kept], column[kept], count
