"""The sparse convolution that all of spconv 2's layers are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from anybev.device.ops.sparse_conv import sparse_conv
from anybev.patches.rulebook import Geometry, build_rulebook
from anybev.patches.spconv.core import ConvAlgo
from anybev.patches.spconv.pytorch.core import IndiceData, SparseConvTensor, expand_nd
from anybev.patches.spconv.pytorch.modules import SparseModule
from anybev.patches.spconv.pytorch.weights import to_krsc

__all__ = ["SparseConvolution"]

Numbers = int | Sequence[int]

_COUNT = "max_num_voxels_during_training"


class SparseConvolution(SparseModule):
    """Convolution over occupied cells, weight ``[out, kernel, in]``.

    One quirk of spconv is kept, since weights were trained with it: of a kernel of one cell (and
    stride 1) the numbers of the weight are read as if it were ``[in, out]``.

    Args:
        ndim: axes of the grid, 1 to 4.
        in_channels, out_channels: widths.
        kernel_size, stride, padding, dilation, output_padding: one number, or one an axis.
        groups: 1.
        bias: whether there is one.
        subm: outputs at the input's cells only; stride and padding do not count then.
        transposed: the stride is one of outputs.
        inverse: runs the layer of the same ``indice_key`` backwards, onto the cells before it.
        indice_key: name under which the plan is kept: submanifold layers of one key share it.
        algo, fp32_accum, large_kernel_fast_algo: choose among spconv's kernels; without effect.
        record_voxel_count: keep the largest number of output cells seen in a buffer.
        name: of the layer.
        device, dtype: of the weights.

    Raises:
        ValueError: groups, a kernel of even size with ``subm``, padding of a kernel of one cell.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers = 3,
        stride: Numbers = 1,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        subm: bool = False,
        output_padding: Numbers = 0,
        transposed: bool = False,
        inverse: bool = False,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        large_kernel_fast_algo: bool = False,
        name: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(name)
        self.ndim = ndim
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = expand_nd(ndim, kernel_size)
        self.stride = expand_nd(ndim, stride)
        self.padding = expand_nd(ndim, padding)
        self.dilation = expand_nd(ndim, dilation)
        self.output_padding = expand_nd(ndim, output_padding)
        self.groups = groups
        self.subm = subm
        self.transposed = transposed
        self.inverse = inverse
        self.indice_key = indice_key
        self.algo = ConvAlgo.Native if algo is None else algo
        self.fp32_accum = fp32_accum
        one_cell = math.prod(self.kernel_size) == 1
        self.conv1x1 = one_cell and (subm or math.prod(self.stride) == 1)
        self.record_voxel_count = record_voxel_count and not subm and not inverse
        self._check()
        if self.record_voxel_count:
            self.register_buffer(_COUNT, torch.zeros(1, dtype=torch.int32, device=device))
        self.weight_shape = [out_channels, *self.kernel_size, in_channels]
        self.weight = nn.Parameter(torch.empty(self.weight_shape, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def _check(self) -> None:
        kind = type(self).__name__
        if self.groups != 1:
            raise ValueError(f"{kind}: groups must be 1, as in spconv, got {self.groups}")
        if self.subm and any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(
                f"{kind}: kernel_size must be odd, got {self.kernel_size}; try SparseConv"
            )
        if self.conv1x1 and not self.subm and any(self.padding):
            raise ValueError(
                f"{kind}: padding must be 0 for a kernel of one cell, got {self.padding}"
            )
        if self.inverse and self.indice_key is None:
            raise ValueError(
                f"{kind}: indice_key must name the layer that is run backwards, got None"
            )

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(fan-in), as spconv and torch do."""
        bound = 1.0 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def is_inverseable(self) -> bool:
        """Whether a ``SparseInverseConv`` can run this layer backwards."""
        return self.indice_key is not None and not self.subm

    def get_max_num_voxels(self) -> Tensor | None:
        """The buffer of ``record_voxel_count``, or None."""
        return getattr(self, _COUNT, None)

    @property
    def geometry(self) -> Geometry:
        """Which cells feed which."""
        geometry = Geometry(
            tuple(self.kernel_size),
            tuple(self.stride),
            tuple(self.padding),
            tuple(self.dilation),
            tuple(self.output_padding),
            subm=self.subm,
            transposed=self.transposed and not self.subm,
        )
        if not self.subm:
            return geometry
        axes = zip(self.kernel_size, self.dilation, strict=True)
        return replace(
            geometry, stride=(1,) * self.ndim, padding=tuple(k // 2 * d for k, d in axes)
        )

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        *args: Any,
    ) -> None:
        """Load weights of either layout; ``to_krsc`` says how they are told apart.

        Deliberately past ``SparseModule``, whose method mmdetection3d replaces by one that
        permutes whatever is not marked as version 2, published checkpoints included.
        """
        key = prefix + "weight"
        state = dict(state_dict)
        if torch.is_tensor(state.get(key)):
            version = local_metadata.get("version")
            state[key] = to_krsc(key, state[key], self.weight, self.conv1x1, version)
        if self.record_voxel_count:
            state.setdefault(prefix + _COUNT, torch.zeros(1, dtype=torch.int32))
        nn.Module._load_from_state_dict(self, state, prefix, local_metadata, *args)

    def forward(
        self, input: SparseConvTensor, add_input: SparseConvTensor | None = None
    ) -> SparseConvTensor:
        """Convolve; ``add_input`` is added to the outcome."""
        if input.features.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: features must be (N, {self.in_channels}), got "
                f"{tuple(input.features.shape)}"
            )
        out = self._of_one_cell(input) if self.conv1x1 else self._of_neighbours(input)
        return out if add_input is None else out + add_input

    def _of_one_cell(self, input: SparseConvTensor) -> SparseConvTensor:
        weight = self.weight.reshape(self.in_channels, self.out_channels).t()
        features = input.features
        bias: Tensor | None = self.bias
        if not torch.is_autocast_enabled(features.device.type):
            weight = weight.to(features.dtype)
            bias = None if bias is None else bias.to(features.dtype)
        return input.replace_feature(nn.functional.linear(features, weight, bias))

    def _of_neighbours(self, input: SparseConvTensor) -> SparseConvTensor:
        data, kept = self._plan(input)
        plan, indices, shape = data.plan, data.out_indices, data.out_spatial_shape
        if self.inverse:
            plan, indices, shape = plan.inverse(), data.indices, data.spatial_shape
        weight = self.weight.reshape(self.out_channels, *plan.kernel_size, self.in_channels)
        features = sparse_conv(input.features, weight, plan, self.bias)
        if self.record_voxel_count:
            getattr(self, _COUNT).clamp_(min=len(indices))
        return input.moved(features, indices, shape, kept)

    def _plan(self, input: SparseConvTensor) -> tuple[IndiceData, dict[str, IndiceData]]:
        """The plan of this layer, and the plans that its output knows."""
        known = input.find_indice_pair(self.indice_key)
        if self.inverse:
            return self._check_inverse(input, known), input.indice_dict
        if known is not None:
            return self._check_shared(input, known), input.indice_dict
        shape = tuple(input.spatial_shape)
        book = build_rulebook(input.indices, shape, input.batch_size, self.geometry)
        data = IndiceData(input.indices, input.spatial_shape, book, self.geometry, self.algo)
        if self.indice_key is None:
            return data, input.indice_dict
        return data, {**input.indice_dict, self.indice_key: data}

    def _check_shared(self, input: SparseConvTensor, known: IndiceData) -> IndiceData:
        if not (self.subm and known.is_subm):
            raise ValueError(
                f"{type(self).__name__}: indice_key must be shared by submanifold layers only, got "
                f"{self.indice_key!r} a second time"
            )
        self._check_fits(known, "kernel_size", known.ksize, self.kernel_size)
        self._check_fits(known, "dilation", known.dilation, self.dilation)
        self._check_fits(known, "spatial_shape", known.spatial_shape, input.spatial_shape)
        self._check_fits(known, "cells", len(known.indices), len(input.indices))
        return known

    def _check_inverse(self, input: SparseConvTensor, known: IndiceData | None) -> IndiceData:
        if known is None or known.is_subm:
            raise ValueError(
                f"{type(self).__name__}: indice_key must be that of a strided convolution or pool "
                f"before it, got {self.indice_key!r} of {sorted(input.indice_dict)}"
            )
        self._check_fits(known, "kernel_size", known.ksize, self.kernel_size)
        self._check_fits(known, "spatial_shape", known.out_spatial_shape, input.spatial_shape)
        self._check_fits(known, "cells", len(known.out_indices), len(input.indices))
        return known

    def _check_fits(self, known: IndiceData, what: str, wanted: Any, got: Any) -> None:
        if wanted != got:
            raise ValueError(
                f"{type(self).__name__}: {what} must be that of indice_key {self.indice_key!r}, "
                f"{wanted}, got {got}"
            )

    def extra_repr(self) -> str:
        """Widths and geometry."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        )
        return text if self.bias is not None else f"{text}, bias=False"
