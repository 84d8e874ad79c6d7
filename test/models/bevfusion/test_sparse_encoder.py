"""The sparse encoder against dense convolutions under a mask of occupied cells."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from anybev.models.bevfusion.sparse_encoder import BEVFusionSparseEncoder
from anybev.models.bevfusion.sparse_layers import (
    ActiveSiteNorm,
    SparseBasicBlock,
    SparseConv,
    make_site_norm,
)
from anybev.testing.tolerances import tolerances

SHAPE = (10, 8, 41)


def _encoder(**more: object) -> BEVFusionSparseEncoder:
    settings: dict = {
        "in_channels": 5,
        "sparse_shape": SHAPE,
        "base_channels": 4,
        "output_channels": 6,
        "encoder_channels": ((4, 4, 6), (6, 6, 8), (8, 8, 10), (10, 10)),
        "encoder_paddings": ((0, 0, 1), (0, 0, 1), (0, 0, (1, 1, 0)), (0, 0)),
        "block_type": "basicblock",
    }
    return BEVFusionSparseEncoder(**(settings | more)).double()


def _voxels(count: int = 160, batch: int = 2) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    columns = [torch.randint(0, n, (count, 1), generator=draw) for n in (batch, *SHAPE[:2], 40)]
    coords = torch.unique(torch.cat(columns, 1), dim=0).int()
    coords = coords[torch.randperm(len(coords), generator=draw)]
    return torch.randn(len(coords), 5, generator=draw, dtype=torch.float64), coords


class DenseOracle:
    """The same layers as convolutions over whole grids, cells that are not occupied set to 0."""

    def __init__(self, features: Tensor, coords: Tensor, batch: int) -> None:
        b, x, y, z = coords.long().T
        self.grid = features.new_zeros(batch, *SHAPE, features.shape[1])
        self.grid = self.grid.index_put((b, x, y, z), features).permute(0, 4, 1, 2, 3)
        self.mask = torch.zeros(batch, 1, *SHAPE, dtype=torch.float64)
        self.mask[b, 0, x, y, z] = 1

    def conv(self, layer: SparseConv) -> None:
        weight = layer.weight.permute(0, 4, 1, 2, 3)
        spec = layer.spec
        if spec.mode == "strided":
            ones = torch.ones(1, 1, *spec.kernel_size, dtype=torch.float64)
            reached = functional.conv3d(self.mask, ones, stride=spec.stride, padding=spec.padding)
            self.mask = (reached > 0).double()
        padding = spec.effective_padding()
        grid = functional.conv3d(self.grid, weight, stride=spec.stride, padding=padding)
        self.grid = grid * self.mask

    def norm(self, layer: nn.Module) -> None:
        rows = self.grid.permute(0, 2, 3, 4, 1)[self.mask[:, 0] > 0]
        running = (layer.running_mean.clone(), layer.running_var.clone())
        rows = functional.batch_norm(
            rows, *running, layer.weight, layer.bias, layer.training, layer.momentum, layer.eps
        )
        grid = torch.zeros_like(self.grid).permute(0, 2, 3, 4, 1)
        where = (self.mask[:, 0] > 0).nonzero(as_tuple=True)
        self.grid = grid.index_put(where, rows).permute(0, 4, 1, 2, 3)

    def module(self, module: nn.Module) -> None:
        if isinstance(module, SparseBasicBlock):
            identity = self.grid
            self.conv(module.conv1)
            self.norm(module.bn1)
            self.grid = self.grid.relu()
            self.conv(module.conv2)
            self.norm(module.bn2)
            self.grid = (self.grid + identity).relu()
        else:
            self.conv(module[0])
            self.norm(module[1])
            self.grid = self.grid.relu()


def _dense(encoder: BEVFusionSparseEncoder, features: Tensor, coords: Tensor) -> Tensor:
    oracle = DenseOracle(features, coords, 2)
    oracle.module(encoder.conv_input)
    for stage in encoder.encoder_layers.values():
        for block in stage:
            oracle.module(block)
    oracle.module(encoder.conv_out)
    batch, channels, x, y, z = oracle.grid.shape
    # channel = c * Z + z
    return oracle.grid.permute(0, 1, 4, 2, 3).reshape(batch, channels * z, x, y)


@pytest.mark.parametrize("training", [True, False])
def test_encoder_equals_dense_convolutions(training: bool) -> None:
    torch.manual_seed(0)
    encoder = _encoder().train(training)
    features, coords = _voxels()
    features.requires_grad_()
    wanted = _dense(encoder, features, coords)
    got = encoder(features, coords, 2)
    assert got.shape == (2, 12, 2, 1)
    torch.testing.assert_close(got, wanted, **tolerances(torch.float64))
    upstream = torch.randn_like(got)
    inputs = [features, *encoder.parameters()]
    for a, b in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(wanted, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **tolerances(torch.float64))


def test_conv_module_blocks_halve_the_grid_at_the_start_of_a_stage() -> None:
    encoder = _encoder(
        encoder_channels=((4,), (6, 6), (8, 8)),
        encoder_paddings=((1,), (1, 1), (1, 1)),
        block_type="conv_module",
    ).eval()
    features, coords = _voxels()
    wanted = _dense(encoder, features, coords)
    torch.testing.assert_close(encoder(features, coords, 2), wanted, **tolerances(torch.float64))
    assert "encoder_layers.encoder_layer2.0.0.weight" in encoder.state_dict()


def test_row_order_does_not_matter() -> None:
    encoder = _encoder().eval()
    features, coords = _voxels()
    order = torch.randperm(len(coords))
    assert torch.equal(encoder(features, coords, 2), encoder(features[order], coords[order], 2))


def test_eight_plans_serve_all_layers() -> None:
    modes = [spec.mode for spec in _encoder().levels]
    assert modes == ["subm", "strided"] * 4


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_of_hardly_any_voxels_trains(count: int) -> None:
    encoder = _encoder()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    features, coords = _voxels()
    out = encoder(features[:count], coords[:count], 2)
    out.sum().backward()
    assert out.shape == (2, 12, 2, 1)
    assert torch.isfinite(out).all()
    mean = encoder.conv_input[1].running_mean
    assert torch.equal(mean, before["conv_input.1.running_mean"])
    assert all(torch.isfinite(v).all() for v in encoder.state_dict().values())


def test_samples_without_voxels_give_an_empty_map() -> None:
    features, coords = _voxels(batch=1)
    out = _encoder().eval()(features, coords, 3)
    assert out.shape[0] == 3
    assert (out[0] > 0).any()


def test_norm_over_two_sites_updates_its_statistics() -> None:
    norm = ActiveSiteNorm(3)
    norm(torch.randn(2, 3))
    assert norm.num_batches_tracked == 1


def test_rejects_what_it_is_not_made_for() -> None:
    with pytest.raises(ValueError, match=r"order must be \('conv', 'norm', 'act'\), got"):
        _encoder(order=("norm", "act", "conv"))
    with pytest.raises(ValueError, match="block_type must be basicblock or conv_module, got 'x'"):
        _encoder(block_type="x")
    with pytest.raises(ValueError, match=r"residual block must equal the width before it \(4\)"):
        _encoder(encoder_channels=((6, 6), (6,)))
    with pytest.raises(ValueError, match="type must be BN1d for sparse layers, got 'LN'"):
        make_site_norm({"type": "LN"}, 4)
