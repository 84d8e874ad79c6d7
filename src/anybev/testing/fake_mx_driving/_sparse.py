"""Sparse convolutions: tables as mx_driving's kernels keep them, sums pair by pair.

The table of a submanifold convolution is flat, one row an offset ([K * N]), and nothing but these
functions may look into it. A strided one is a list of input row * K + offset, ordered by output.
"""

import itertools
import math

import torch
from torch import Tensor

Ints = tuple[int, ...] | list[int]


def npu_subm_sparse_conv3d_v3(
    features: Tensor,
    weight: Tensor,
    coords: Tensor,
    table: Tensor,
    map1: Tensor,
    map2: Tensor,
    kernel: Ints,
    in_channels: int,
    out_channels: int,
    padded: Ints,
    batch_size: int,
    with_key: int,
    allow_hf32: bool,
) -> tuple[Tensor, Tensor]:
    """Output and table; without a key the table is looked up in the dense map of rows."""
    taps = list(itertools.product(*map(range, kernel)))
    if not with_key:
        dense = map1.view(batch_size, *padded)
        table = torch.stack(
            [dense[tuple((coords.long() + torch.tensor([0, *tap])).t())] for tap in taps]
        )
    rows = table.view(len(taps), len(coords)).long()
    out = features.new_zeros((len(coords), out_channels), dtype=torch.float32)
    for tap, source in enumerate(rows):
        hit = source >= 0
        out[hit] += features[source[hit]].float() @ weight.flatten(0, 2)[tap].float()
    return out.to(features.dtype), table.flatten().int()


def npu_subm_sparse_conv3d_grad_v2(
    features: Tensor, weight: Tensor, grad: Tensor, table: Tensor, allow_hf32: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of features and weight."""
    taps = math.prod(weight.shape[:3])
    rows = table.view(taps, len(features)).long()
    grad_features, grad_weight = torch.zeros_like(features), torch.zeros_like(weight)
    for tap, source in enumerate(rows):
        hit = source >= 0
        given = grad[hit]
        grad_features.index_add_(0, source[hit], given @ weight.flatten(0, 2)[tap].t())
        grad_weight.view(taps, *weight.shape[3:])[tap] = features[source[hit]].t() @ given
    return grad_features, grad_weight


npu_subm_sparse_conv3d_arch35 = npu_subm_sparse_conv3d_v3
npu_subm_sparse_conv3d_grad_arch35 = npu_subm_sparse_conv3d_grad_v2


def npu_sparse_conv3d(
    coords: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    out_channels: int,
    out_shape: Ints,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Of every row and offset the output's coordinates and linear number, -1 for none."""
    taps = torch.tensor(list(itertools.product(*map(range, kernel))))
    moved = coords[:, None, 1:].long() + torch.tensor(padding) - taps
    out = moved.div(torch.tensor(stride), rounding_mode="floor")
    bounds = torch.tensor(out_shape)
    reached = ((moved % torch.tensor(stride) == 0) & (out >= 0) & (out < bounds)).all(2)
    sample = coords[:, :1].long().expand(reached.shape)
    x, y, z = out.unbind(2)
    number = ((sample * out_shape[0] + x) * out_shape[1] + y) * out_shape[2] + z
    pairs = torch.where(reached[..., None], torch.cat([sample[..., None], out], 2), -1)
    return pairs.flatten(0, 1).int(), torch.where(reached, number, -1).flatten().int()


def _pairs(offset: Tensor, order: Tensor, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Output row, input row and offset of every pair."""
    outputs = torch.repeat_interleave(offset.diff().long())
    former = order[int(offset[0]) : int(offset[-1])].long()
    return outputs, former // taps, former % taps


def npu_sparse_matmul(
    features: Tensor, weight: Tensor, offset: Tensor, order: Tensor, pair: Tensor
) -> tuple[Tensor, Tensor]:
    """Output of a strided convolution; the second tensor is never filled."""
    taps = math.prod(weight.shape[:3])
    outputs, inputs, offsets = _pairs(offset, order, taps)
    out = features.new_zeros((len(offset) - 1, weight.shape[4]), dtype=torch.float32)
    for tap, matrix in enumerate(weight.flatten(0, 2).float()):
        hit = offsets == tap
        out.index_add_(0, outputs[hit], features[inputs[hit]].float() @ matrix)
    return out.to(features.dtype), offset.new_empty((len(offset) - 1, 8))


def npu_sparse_conv3d_grad(
    order: Tensor, offset: Tensor, features: Tensor, weight: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of features and weight of a strided convolution."""
    taps = math.prod(weight.shape[:3])
    outputs, inputs, offsets = _pairs(offset, order, taps)
    grad_features, grad_weight = torch.zeros_like(features), torch.zeros_like(weight)
    for tap, matrix in enumerate(weight.flatten(0, 2)):
        hit = offsets == tap
        given = grad[outputs[hit]]
        grad_features.index_add_(0, inputs[hit], given @ matrix.t())
        grad_weight.view(taps, *matrix.shape)[tap] = features[inputs[hit]].t() @ given
    return grad_features, grad_weight


def npu_sparse_inverse_conv3d(
    features: Tensor, coords: Tensor, offset: Tensor, order: Tensor, kernel: Ints, channels: int
) -> Tensor:
    """(N, K * C): what every offset brings to every row of the finer grid."""
    taps = math.prod(kernel)
    coarse, fine, offsets = _pairs(offset, order, taps)
    columns = features.new_zeros((len(coords), taps, channels))
    columns[fine, offsets] = features[coarse]
    return columns.flatten(1)
