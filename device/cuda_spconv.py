"""sparse_conv by an installed spconv, where ``ANYBEV_SPARSE_CONV=spconv`` asks for it.

spconv 2.3 convolves and differentiates; who feeds whom stays our plan's, given to it in the layouts
that its own plans have, and kept as long as the plan. Kernels of up to 32 taps run as its masked
implicit GEMM, larger ones as its gather, multiply and scatter. Only CUDA is offered: on the CPU
spconv 2.3.8 adds to shared rows from several threads at once, and its gradients fail. There is no
second gradient. No GPU has run this yet: on the CPU the tests run spconv's gather and scatter, and
the arguments of its implicit GEMM go through a plain product.

What is spconv's own: sums of float16 may be kept in float16, the weight's gradient has the rounded
weight's dtype before it is cast to the weight's, the bias is added to rounded sums, TF32 follows
``spconv.constants.SPCONV_ALLOW_TF32``, and results may differ from one run to the next.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from anybev import envs

if TYPE_CHECKING:
    from anybev.device.ops.sparse_neighbors import SparseNeighbors

_DEVICE = "cuda"
_MASK_BITS = 32
DTYPES = (torch.float16, torch.float32)


def convolve(
    features: Tensor, weight: Tensor, plan: "SparseNeighbors", bias: Tensor | None
) -> Tensor:
    """:func:`anybev.device.ops.sparse_conv.sparse_conv` by spconv, of checked arguments.

    Args:
        features: (N, Cin), float16 or float32, on CUDA.
        weight: (Cout, kx, ky, kz, Cin), rounded to the features' dtype.
        plan: with at least one pair.
        bias: (Cout,) or None.

    Raises:
        MachineError: spconv is not installed, or for the CPU alone, or AnyBEV's modules stand under
            its name.
        ValueError: the features are not on CUDA.
        TypeError: the features are neither float16 nor float32.
    """
    if features.device.type != _DEVICE:
        raise ValueError(
            "ANYBEV_SPARSE_CONV=spconv: features must be on cuda, got "
            f"{features.device.type}; try without the variable"
        )
    if features.dtype not in DTYPES:
        raise TypeError(
            "ANYBEV_SPARSE_CONV=spconv: features must be float16 or float32, got "
            f"{features.dtype}; try without the variable"
        )
    check_installed()
    function: Any = _ImplicitGemm if plan.offsets <= _MASK_BITS else _GatherScatter
    rounded = weight.to(features.dtype).contiguous()
    out: Tensor = function.apply(features.contiguous(), rounded, layout_of(plan))
    return out if bias is None else out + bias.to(out.dtype)


def check_installed() -> None:
    """Raise MachineError unless spconv is installed, built for CUDA and found under its name."""
    loaded = sys.modules.get("spconv")
    if loaded is not None and loaded.__name__ != "spconv":
        raise envs.MachineError(
            "ANYBEV_SPARSE_CONV=spconv: spconv must be the installed one, got "
            f"{loaded.__name__}; set the variable before anybev.patches.apply()"
        )
    if importlib.util.find_spec("spconv") is None:
        raise envs.MachineError(
            "ANYBEV_SPARSE_CONV=spconv: spconv must be installed, got none; try pip install "
            "spconv-cu126, or leave the variable out"
        )
    if importlib.import_module("spconv.cppconstants").CPU_ONLY_BUILD:
        raise envs.MachineError(
            "ANYBEV_SPARSE_CONV=spconv: spconv must be built for CUDA, got its CPU build; try pip "
            "install spconv-cu126 in its place, or leave the variable out"
        )


def operators() -> Any:
    """``spconv.pytorch.ops``."""
    return importlib.import_module("spconv.pytorch.ops")


@dataclass(frozen=True, eq=False)
class Masked:
    """Neighbours of one direction as spconv's implicit GEMM reads them.

    Attributes:
        pairs: (K, rows) int32, the row that feeds each row through each tap, or -1.
        mask: (rows, 1) int32, bit k: tap k has a neighbour.
        order: (rows,) int32, rows sorted by mask: those of one block then skip the same taps.
    """

    pairs: Tensor
    mask: Tensor
    order: Tensor

    @classmethod
    def of_table(cls, table: Tensor) -> "Masked":
        """From (rows, K) int32, K at most 32."""
        taps = table.shape[1]
        bits = [1 << k if k < _MASK_BITS - 1 else -(1 << k) for k in range(taps)]
        mask = ((table >= 0) * table.new_tensor(bits)).sum(1, dtype=torch.int32)
        order = mask.argsort(stable=True).int()
        return cls(table.t().contiguous(), mask[:, None].contiguous(), order)


class Layout:
    """A plan in spconv's layouts, each made when it is first asked for.

    Args:
        table: (M, K) int32, the input row that feeds output row m through tap k, or -1.
        sources: N, input rows.
    """

    def __init__(self, table: Tensor, sources: int) -> None:
        self._table, self._sources = table, sources
        self.rows = len(table)

    @cached_property
    def forward(self) -> Masked:
        """Rows are output rows."""
        return Masked.of_table(self._table)

    @cached_property
    def backward(self) -> Masked:
        """Rows are input rows, the same taps."""
        turned = self._table.new_full((self._sources, self._table.shape[1]), -1)
        row, tap = (self._table >= 0).nonzero(as_tuple=True)
        turned[self._table[row, tap].long(), tap] = row.int()
        return Masked.of_table(turned)

    @cached_property
    def lists(self) -> tuple[Tensor, Tensor]:
        """(2, K, P) int32, input and output rows of each tap's pairs, then -1; (K,) how many."""
        present = (self._table >= 0).t()
        count = present.sum(1)
        tap, row = present.nonzero(as_tuple=True)
        place = torch.arange(len(tap), device=tap.device) - (count.cumsum(0) - count)[tap]
        pairs = self._table.new_full((2, len(count), int(count.max())), -1)
        pairs[0, tap, place] = self._table[row, tap]
        pairs[1, tap, place] = row.int()
        return pairs, count.int()


_LAYOUTS: "WeakKeyDictionary[SparseNeighbors, Layout]" = WeakKeyDictionary()


def layout_of(plan: "SparseNeighbors") -> Layout:
    """The plan's layout, the same as long as the plan lives."""
    if plan not in _LAYOUTS:
        _LAYOUTS[plan] = Layout(plan.table, len(plan.in_coords))
    return _LAYOUTS[plan]


class _ImplicitGemm(torch.autograd.Function):
    """spconv's masked implicit GEMM; strided for it even where the plan is submanifold."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, layout: Layout) -> Tensor:
        there = layout.forward
        ctx.layout = layout
        ctx.masks = [np.array([0xFFFFFFFF], np.uint32)]
        ctx.save_for_backward(features, weight)
        out, ctx.mask_output, ctx.mask_width = operators().implicit_gemm(
            features,
            weight,
            there.pairs,
            [there.mask],
            [there.order],
            layout.rows,
            ctx.masks,
            any(ctx.needs_input_grad),
            False,
            fp32_accum=True,
        )
        result: Tensor = out
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        there, back = ctx.layout.forward, ctx.layout.backward
        grad_features, grad_weight = operators().implicit_gemm_backward(
            features,
            weight,
            grad.contiguous(),
            there.pairs,
            back.pairs,
            [there.mask],
            [back.mask],
            [there.order],
            [back.order],
            ctx.mask_output,
            ctx.masks,
            ctx.mask_width,
            False,
            fp32_accum=True,
        )
        return grad_features, grad_weight, None


class _GatherScatter(torch.autograd.Function):
    """spconv's native algorithm: for each tap gather, multiply, scatter."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        ctx.save_for_backward(features, weight)
        pairs, count = layout.lists
        out: Tensor = operators().indice_conv(features, weight, pairs, count, layout.rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        grad_features, grad_weight = operators().indice_conv_backward(
            features, weight, grad.contiguous(), *ctx.layout.lists
        )
        return grad_features, grad_weight, None
