"""The sparse tensor, containers and tables of the supplied spconv."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import anybev.patches.spconv as package
from anybev.patches.spconv import pytorch as spconv
from anybev.patches.spconv.pytorch import functional, modules, ops, tables
from anybev.patches.spconv.pytorch.core import expand_nd

SHAPE = [4, 5, 6]


def sparse_input(seed: int = 0, channels: int = 3) -> spconv.SparseConvTensor:
    generator = torch.Generator().manual_seed(seed)
    indices = (torch.rand(2, *SHAPE, generator=generator) < 0.3).nonzero().int()
    features = torch.randn(len(indices), channels, generator=generator)
    return spconv.SparseConvTensor(features, indices, SHAPE, 2)


def test_the_version_is_that_of_spconv_2() -> None:
    assert package.__version__ >= "2.0.0"
    assert package.SPCONV_VERSION_NUMBERS == [2, 3, 8]
    assert [algo.name for algo in spconv.ConvAlgo] == [
        "Native",
        "MaskImplicitGemm",
        "MaskSplitImplicitGemm",
    ]


def test_dense_and_back() -> None:
    x = sparse_input()
    x = x.replace_feature(x.features.requires_grad_())
    grid = x.dense()
    assert grid.shape == (2, 3, *SHAPE)
    assert grid.is_contiguous()
    assert torch.equal(x.dense(channels_first=False), grid.movedim(1, -1))
    assert torch.equal(grid.movedim(1, -1)[tuple(x.indices.long().t())], x.features)
    assert grid.count_nonzero() == x.features.numel()
    grid.sum().backward()
    assert torch.equal(x.features.grad, torch.ones_like(x.features))

    again = spconv.SparseConvTensor.from_dense(x.dense(channels_first=False).detach())
    assert torch.equal(again.indices, x.indices)
    assert torch.equal(again.features, x.features)
    assert (again.spatial_shape, again.batch_size) == (SHAPE, 2)


def test_what_a_tensor_keeps_when_its_features_are_replaced() -> None:
    x = sparse_input()
    x.indice_dict["a"] = "plan"  # type: ignore[assignment]
    y = x.replace_feature(torch.zeros(len(x.indices), 7))
    assert y.indices is x.indices
    assert y.indice_dict is x.indice_dict
    assert y.features.shape[1] == 7
    assert x.features.shape[1] == 3
    copied = x.shadow_copy()
    assert copied is not x
    assert copied.features is x.features
    with pytest.raises(ValueError, match=r"x\.replace_feature"):
        x.features = y.features
    chosen = x.select_by_index(x.indices[:, 0] == 1)
    assert (chosen.indices[:, 0] == 1).all()
    assert chosen.indice_dict == {}
    assert x.indice_dict == {"a": "plan"}
    assert "replace_feature" in dir(x)  # how mmdetection3d knows spconv 2


def test_arithmetic() -> None:
    x = sparse_input()
    assert torch.equal((x + x).features, 2 * x.features)
    assert torch.equal((x + x.features).features, 2 * x.features)
    y = x
    y += x
    assert torch.equal(y.features, 2 * x.features)
    assert torch.equal(x.minus().features, -x.features)
    assert x.spatial_size == 4 * 5 * 6
    assert not x.is_quantized


def test_sizes_may_be_a_tensor_and_the_batch_a_scalar() -> None:
    x = sparse_input()
    y = spconv.SparseConvTensor(x.features, x.indices, torch.tensor(SHAPE), torch.tensor(2))
    assert y.spatial_shape == SHAPE
    assert y.batch_size == 2
    assert repr(y) == f"SparseConvTensor[shape={x.features.shape}]"


def test_tensors_that_cannot_be() -> None:
    x = sparse_input()
    with pytest.raises(TypeError, match=r"indices must be int32, got torch\.int64"):
        spconv.SparseConvTensor(x.features, x.indices.long(), SHAPE, 2)
    with pytest.raises(ValueError, match=r"indices must be \(N, 3\)"):
        spconv.SparseConvTensor(x.features, x.indices, SHAPE[:2], 2)
    with pytest.raises(ValueError, match=r"features must be \(\d+, C\)"):
        spconv.SparseConvTensor(x.features[1:], x.indices, SHAPE, 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        spconv.SparseConvTensor(x.features, x.indices, SHAPE, 0)


def test_plain_modules_of_a_sequence_get_the_features() -> None:
    net = spconv.SparseSequential(
        spconv.SubMConv3d(3, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        spconv.ToDense(),
        nn.Conv3d(4, 2, 1),
    )
    x = sparse_input()
    middle = net[0](x)
    wanted = net[4](middle.replace_feature(net[2](net[1](middle.features))).dense())
    torch.testing.assert_close(net(x), wanted)
    assert len(net) == 5
    assert net[-1] is net[4]
    with pytest.raises(IndexError, match="index must be below 5"):
        net[5]


def test_plain_modules_are_left_out_where_there_is_no_cell() -> None:
    net = spconv.SparseSequential(spconv.SubMConv3d(3, 4, 3), nn.BatchNorm1d(4))
    x = sparse_input().select_by_index(torch.zeros(0, dtype=torch.long))
    assert net(x).features.shape == (0, 4)


def test_ways_to_fill_a_sequence() -> None:
    assert list(dict(spconv.SparseSequential(OrderedDict(a=nn.ReLU())).named_children())) == ["a"]
    net = spconv.SparseSequential(nn.ReLU(), b=nn.ReLU())
    net.add(nn.ReLU())
    net.add(nn.ReLU(), "last")
    assert list(dict(net.named_children())) == ["0", "b", "2", "last"]
    with pytest.raises(ValueError, match="'b' twice"):
        net.add(nn.ReLU(), "b")


def test_layers_on_features() -> None:
    x = sparse_input()
    assert torch.equal(modules.SparseReLU()(x).features, x.features.relu())
    assert torch.equal(modules.SparseReLU()(x.features), x.features.relu())
    norm, plain = modules.SparseBatchNorm(3), nn.BatchNorm1d(3)
    assert torch.equal(norm(x).features, plain(x.features))
    assert torch.equal(norm(x.features), plain(x.features))
    assert modules.SparseIdentity()(x) is x
    assert spconv.Identity()(x) is x
    assert spconv.RemoveGrid()(x).grid is None


def test_which_modules_are_sparse_and_what_they_are_called() -> None:
    conv = spconv.SubMConv3d(3, 4, 3)
    net = nn.Sequential(spconv.SparseSequential(conv, nn.ReLU()))
    spconv.assign_name_for_sparse_modules(net)
    assert conv._sparse_unique_name == "0.0"
    assert modules.is_spconv_module(conv)
    assert not modules.is_spconv_module(nn.ReLU())
    assert modules.is_sparse_conv(conv)
    assert not modules.is_sparse_conv(net[0])


def test_tables() -> None:
    x = sparse_input()
    both = spconv.ConcatTable().add(nn.Identity()).add(spconv.SubMConv3d(3, 3, 3))(x)
    assert len(both) == 2
    added = spconv.AddTable()(both)
    assert torch.equal(added.features, both[0].features + both[1].features)
    joined = spconv.JoinTable()(both)
    assert torch.equal(joined.features, torch.cat([b.features for b in both], 1))
    with pytest.raises(ValueError, match="AddTable: cells and channels must be the same"):
        spconv.AddTable()([x, sparse_input(1)])
    assert spconv.JoinTable()([x, sparse_input(0, 5)]).features.shape[1] == 8


def test_sum_over_different_cells() -> None:
    x, y = sparse_input(0), sparse_input(1)
    total = tables.AddTableMisaligned()([x, y])
    torch.testing.assert_close(total.dense(), x.dense() + y.dense())
    assert total.indice_dict == {}
    x.indice_dict["a"] = "plan"  # type: ignore[assignment]
    within = x.select_by_index(torch.arange(5))
    assert functional.sparse_add(within, x).indice_dict == {"a": "plan"}
    with pytest.raises(ValueError, match="spatial_shape, batch_size and channels must be one"):
        functional.sparse_add(x, sparse_input(0, 5))


def test_sizes_of_grids() -> None:
    assert ops.get_conv_output_size([41, 8], [3, 3], [2, 1], [1, 0], [1, 2]) == [21, 4]
    assert ops.get_deconv_output_size([21, 8], [3, 2], [2, 2], [1, 0], [1, 1], [0, 1]) == [41, 17]
    assert expand_nd(3, 2) == [2, 2, 2]
