"""``scatter_nd``, behind mmcv's ``SparseConvTensor.dense``, with an index that torch keeps."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def replace(original: Callable[..., Any]) -> Callable[..., Tensor]:
    """The same scatter with a tuple for an index.

    Upstream indexes with a list of columns, which torch deprecates: it is to be read as one array.
    Values and gradients are equal where the original runs.
    """

    def scatter_nd(indices: Tensor, updates: Tensor, shape: Sequence[int]) -> Tensor:
        axes = indices.shape[-1]
        grid = updates.new_zeros(tuple(shape))
        columns = indices.reshape(-1, axes).unbind(1)
        grid[tuple(columns)] = updates.reshape(-1, *shape[axes:])
        return grid

    return scatter_nd
