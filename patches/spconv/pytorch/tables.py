"""Several sparse tensors into one, and one into several."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from anybev.patches.spconv.pytorch.core import SparseConvTensor
from anybev.patches.spconv.pytorch.functional import sparse_add
from anybev.patches.spconv.pytorch.modules import SparseModule

__all__ = ["AddTable", "AddTableMisaligned", "ConcatTable", "JoinTable"]


def _check_aligned(name: str, tensors: Sequence[SparseConvTensor], *, widths: bool) -> None:
    grids = [
        (x.spatial_shape, x.batch_size, len(x.indices), x.features.shape[1] if widths else None)
        for x in tensors
    ]
    for grid in grids[1:]:
        if grid != grids[0]:
            raise ValueError(
                f"{name}: cells and channels must be the same in all tensors, got {grids[0]} and "
                f"{grid}; try AddTableMisaligned"
            )


class JoinTable(SparseModule):
    """Tensors over the same cells, their channels one after the other."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        """Concatenate."""
        _check_aligned("JoinTable", input, widths=False)
        return input[0].replace_feature(torch.cat([x.features for x in input], 1))

    def input_spatial_size(self, out_size: Any) -> Any:
        """The size of the input, given that of the output."""
        return out_size


class AddTable(SparseModule):
    """Sum of tensors over the same cells."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        """Add."""
        _check_aligned("AddTable", input, widths=True)
        total = input[0].features
        for other in input[1:]:
            total = total + other.features
        return input[0].replace_feature(total)

    def input_spatial_size(self, out_size: Any) -> Any:
        """The size of the input, given that of the output."""
        return out_size


class AddTableMisaligned(SparseModule):
    """Sum of tensors over different cells of one grid."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        """Add."""
        return sparse_add(*input)

    def input_spatial_size(self, out_size: Any) -> Any:
        """The size of the input, given that of the output."""
        return out_size


class ConcatTable(SparseModule):
    """A list of what each of its modules makes of one input."""

    def forward(self, input: Any) -> list[Any]:
        """Apply each."""
        return [module(input) for module in self.children()]

    def add(self, module: nn.Module) -> "ConcatTable":
        """Append a module."""
        self.add_module(str(len(self._modules)), module)
        return self
