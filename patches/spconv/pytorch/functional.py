"""Sums of sparse tensors over different cells."""

import torch

from anybev.patches.spconv.pytorch.core import SparseConvTensor

__all__ = ["sparse_add", "sparse_add_hash_based"]


def sparse_add(*tens: SparseConvTensor) -> SparseConvTensor:
    """Sum of tensors over one grid; the cells of any are the cells of the sum, ascending.

    Plans are dropped, unless one tensor has all the cells, in the sum's order.

    Raises:
        ValueError: the grids, batches or channels differ.
    """
    first = tens[0]
    for other in tens[1:]:
        grids = [(x.spatial_shape, x.batch_size, x.features.shape[1]) for x in (first, other)]
        if grids[0] != grids[1]:
            raise ValueError(
                "sparse_add: spatial_shape, batch_size and channels must be one, got "
                f"{grids[0]} and {grids[1]}"
            )
    indices = torch.cat([x.indices for x in tens])
    keys = indices[:, 0].long()
    for axis, size in enumerate(first.spatial_shape, 1):
        keys = keys * size + indices[:, axis]
    unique, row = torch.unique(keys, return_inverse=True)
    features = torch.cat([x.features for x in tens])
    summed = features.new_zeros((len(unique), features.shape[1])).index_add(0, row, features)
    cells = indices.new_empty((len(unique), indices.shape[1]))
    cells[row] = indices
    whole = next(
        (x for x in tens if len(x.indices) == len(unique) and torch.equal(x.indices, cells)), None
    )
    kept = whole.indice_dict if whole is not None else {}
    return first.moved(summed, cells, first.spatial_shape, kept)


sparse_add_hash_based = sparse_add
