"""Containers, and layers that act on the features alone."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from anybev.patches.spconv.pytorch.core import SparseConvTensor

__all__ = [
    "RemoveGrid",
    "SparseBatchNorm",
    "SparseIdentity",
    "SparseModule",
    "SparseReLU",
    "SparseSequential",
    "SparseSyncBatchNorm",
    "ToDense",
    "assign_name_for_sparse_modules",
    "is_sparse_conv",
    "is_spconv_module",
]

Sparse = SparseConvTensor | Tensor


class SparseModule(nn.Module):
    """A module that takes a sparse tensor inside :class:`SparseSequential`."""

    # In the metadata of a state dict: weights are [out, kernel, in]. mmdetection3d sets it too.
    _version = 2

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self._sparse_unique_name = ""


def is_spconv_module(module: nn.Module) -> bool:
    """Whether the module takes a sparse tensor."""
    return isinstance(module, (SparseModule, SparseBatchNorm, SparseReLU))


def is_sparse_conv(module: nn.Module) -> bool:
    """Whether the module is a sparse convolution."""
    from anybev.patches.spconv.pytorch.conv import SparseConvolution

    return isinstance(module, SparseConvolution)


def assign_name_for_sparse_modules(module: nn.Module) -> None:
    """Tell every sparse module its name in the model."""
    for name, child in module.named_modules():
        if isinstance(child, SparseModule):
            child._sparse_unique_name = name


class SparseSequential(SparseModule):
    """Modules in order; those that know no sparse tensor get its features.

    Takes modules, one ordered dict of modules, or modules by keyword. Over no cell at all the
    plain modules are left out, as spconv does: a normalisation could not run.
    """

    def __init__(self, *args: Any, **kwargs: nn.Module) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            named = list(args[0].items())
        else:
            named = [(str(index), module) for index, module in enumerate(args)]
        for name, module in named:
            self.add_module(name, module)
        for name, module in kwargs.items():
            self.add(module, name)

    def __getitem__(self, idx: int) -> nn.Module:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"SparseSequential: index must be below {len(self)}, got {idx}")
        return list(self._modules.values())[idx]  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self._modules)

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Append a module, named by its position unless a name is given.

        Raises:
            ValueError: the name is taken.
        """
        name = str(len(self._modules)) if name is None else name
        if name in self._modules:
            raise ValueError(f"SparseSequential: each name must be there once, got {name!r} twice")
        self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        """Apply each in turn."""
        for module in self._modules.values():
            assert module is not None
            if is_spconv_module(module) or not isinstance(input, SparseConvTensor):
                input = module(input)
            elif len(input.indices):
                input = input.replace_feature(module(input.features))
        return input


class ToDense(SparseModule):
    """(B, C, cells) of a sparse tensor."""

    def forward(self, x: SparseConvTensor) -> Tensor:
        """Zeros at the free cells."""
        return x.dense()


class RemoveGrid(SparseModule):
    """Drops the grid that a caller allocated."""

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """The same tensor."""
        x.grid = None  # type: ignore[assignment]
        return x


class SparseBatchNorm(nn.BatchNorm1d):
    """Normalisation that takes a sparse tensor as well."""

    def forward(self, input: Sparse) -> Sparse:  # type: ignore[override]
        """Of the features."""
        if isinstance(input, SparseConvTensor):
            return input.replace_feature(super().forward(input.features))
        return super().forward(input)


class SparseSyncBatchNorm(nn.SyncBatchNorm):
    """Normalisation over all processes that takes a sparse tensor as well."""

    def forward(self, input: Sparse) -> Sparse:  # type: ignore[override]
        """Of the features."""
        if isinstance(input, SparseConvTensor):
            return input.replace_feature(super().forward(input.features))
        return super().forward(input)


class SparseReLU(nn.ReLU):
    """ReLU that takes a sparse tensor as well."""

    def forward(self, input: Sparse) -> Sparse:  # type: ignore[override]
        """Of the features."""
        if isinstance(input, SparseConvTensor):
            return input.replace_feature(super().forward(input.features))
        return super().forward(input)


class SparseIdentity(nn.Identity):
    """Hands its input on."""
