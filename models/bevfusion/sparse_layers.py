"""Layers over the occupied voxels of a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import PlanSpec, SparseNeighbors, sparse_pyramid
from anybev.models.common.arguments import call

_NORM = {"type": "BN1d", "eps": 1e-3, "momentum": 0.01}


def triple(value: int | Sequence[int]) -> tuple[int, int, int]:
    """``value`` along x, y and z."""
    if isinstance(value, int):
        return value, value, value
    x, y, z = value
    return int(x), int(y), int(z)


@dataclass(frozen=True)
class SparseTensor:
    """Features at the occupied cells of a voxel grid.

    Attributes:
        features: (N, C).
        coords: (N, 4) int32, columns (b, x, y, z).
        spatial_shape: cells along x, y, z.
        batch_size: samples, also those without a voxel.
        plans: neighbour plans made so far, shared by every layer over the same voxels.
    """

    features: Tensor
    coords: Tensor
    spatial_shape: tuple[int, int, int]
    batch_size: int
    plans: list[SparseNeighbors] = field(default_factory=list)

    def with_features(self, features: Tensor) -> SparseTensor:
        """The same cells with other features."""
        return replace(self, features=features)

    def plan(self, spec: PlanSpec) -> SparseNeighbors:
        """The plan of a layer over these cells, made when there is none yet."""
        for plan in self.plans:
            same = (plan.kernel_size, plan.stride, plan.mode) == (
                spec.kernel_size,
                spec.stride,
                spec.mode,
            )
            if plan.in_coords is self.coords and same and plan.padding == spec.effective_padding():
                return plan
        self.plans.extend(sparse_pyramid(self.coords, self.spatial_shape, self.batch_size, [spec]))
        return self.plans[-1]

    def dense(self) -> Tensor:
        """(B, X, Y, Z, C) with zeros at the free cells; differentiable."""
        batch, channels = self.batch_size, self.features.shape[1]
        rows = linear_index(self.coords, self.spatial_shape)
        grid = self.features.new_zeros(batch * math.prod(self.spatial_shape), channels)
        return grid.index_copy(0, rows, self.features).view(batch, *self.spatial_shape, channels)


def linear_index(coords: Tensor, spatial_shape: Sequence[int]) -> Tensor:
    """(N,) int64 position of each (b, x, y, z) row in a C-ordered (B, X, Y, Z) array."""
    size_x, size_y, size_z = spatial_shape
    b, x, y, z = coords.long().unbind(1)
    return ((b * size_x + x) * size_y + y) * size_z + z


class SparseConv(nn.Module):
    """Convolution over occupied cells, weight ``[out, kx, ky, kz, in]``, no bias.

    Args:
        in_channels, out_channels: widths.
        kernel_size, stride, padding: an integer or one for each of x, y, z.
        submanifold: outputs at the input's cells only; else wherever a kernel reaches one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        *,
        submanifold: bool,
    ) -> None:
        super().__init__()
        mode = "subm" if submanifold else "strided"
        self.spec = PlanSpec(triple(kernel_size), triple(stride), triple(padding), mode)
        shape = (out_channels, *self.spec.kernel_size, in_channels)
        self.weight = nn.Parameter(torch.empty(shape))
        # What torch's own convolutions start from: uniform within 1 / sqrt(fan-in).
        bound = 1.0 / math.sqrt(math.prod(shape[1:]))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve; a strided layer changes cells and shape."""
        plan = x.plan(self.spec)
        features = sparse_conv(x.features, self.weight, plan)
        return replace(
            x, features=features, coords=plan.out_coords, spatial_shape=triple(plan.out_shape)
        )


class ActiveSiteNorm(nn.BatchNorm1d):
    """Batch normalisation over the occupied cells of all samples.

    With fewer than two cells there is no batch variance: the running statistics are used then and
    left as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to (N, C)."""
        if self.training and x.shape[0] < 2:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


def make_site_norm(cfg: Mapping[str, Any], channels: int) -> ActiveSiteNorm:
    """Normalisation over occupied cells from ``dict(type="BN1d", ...)``."""
    options = dict(cfg)
    if options.pop("type", None) != "BN1d":
        raise ValueError(f"norm_cfg: type must be BN1d for sparse layers, got {cfg.get('type')!r}")
    return call("norm_cfg", ActiveSiteNorm, options, channels)


class SparseConvModule(nn.Sequential):
    """Convolution, normalisation, ReLU with keys ``0.weight`` and ``1.*``."""

    def __init__(
        self, conv: SparseConv, channels: int, norm_cfg: Mapping[str, Any] = _NORM
    ) -> None:
        super().__init__(conv, make_site_norm(norm_cfg, channels), nn.ReLU(inplace=True))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the three in order."""
        conv, norm, activate = self
        x = conv(x)
        return x.with_features(activate(norm(x.features)))


class SparseBasicBlock(nn.Module):
    """Residual block of two submanifold convolutions."""

    def __init__(self, channels: int, norm_cfg: Mapping[str, Any] = _NORM) -> None:
        super().__init__()
        self.conv1 = SparseConv(channels, channels, submanifold=True)
        self.bn1 = make_site_norm(norm_cfg, channels)
        self.conv2 = SparseConv(channels, channels, submanifold=True)
        self.bn2 = make_site_norm(norm_cfg, channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``relu(bn2(conv2(relu(bn1(conv1(x))))) + x)``."""
        out: SparseTensor = self.conv1(x)
        out = self.conv2(out.with_features(self.relu(self.bn1(out.features))))
        return out.with_features(self.relu(self.bn2(out.features) + x.features))
