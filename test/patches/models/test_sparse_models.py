"""mmdetection3d's sparse models, and mmcv's own sparse layers, on AnyBEV's operators."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybev import envs
from anybev.models.bevfusion.sparse_encoder import BEVFusionSparseEncoder
from anybev.patches.spconv import pytorch as spconv
from anybev.testing.tolerances import tolerances

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("host")]

BASIC_BLOCKS = {
    "block_type": "basicblock",
    "encoder_channels": ((8, 8, 16), (16, 16, 24), (24, 24, 32), (32, 32)),
    "encoder_paddings": ((0, 0, 1), (0, 0, 1), (0, 0, (0, 1, 1)), (0, 0)),
    "base_channels": 8,
    "output_channels": 16,
}
CONV_MODULES = {
    "encoder_channels": ((8,), (16, 16), (24, 24), (24, 24)),
    "encoder_paddings": ((1,), (1, 1), (1, 1), ((0, 1, 1), 1)),
    "base_channels": 8,
    "output_channels": 16,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small problems: a second thread would mostly wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def voxels(shape: tuple[int, ...], many: int, channels: int) -> tuple[Tensor, Tensor]:
    """Features and (batch, cells) of two samples, the samples in order and the cells in none."""
    generator = torch.Generator().manual_seed(1)
    columns = [torch.randint(0, size, (many,), generator=generator) for size in (2, *shape)]
    coords = torch.unique(torch.stack(columns, 1), dim=0)
    coords = coords[torch.randperm(len(coords), generator=generator)]
    coords = coords[coords[:, 0].argsort(stable=True)].int()
    return torch.randn(len(coords), channels, generator=generator), coords


def build(**config: Any) -> nn.Module:
    from mmdet3d.registry import MODELS

    model: nn.Module = MODELS.build(config)
    return model


def tensors_of(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if hasattr(output, "features"):
        return [output.features]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in tensors_of(value)]


def assert_trains(model: nn.Module, *inputs: Any) -> Any:
    """Outputs are finite, and a gradient reaches every parameter."""
    output = model(*inputs)
    tensors = tensors_of(output)
    assert all(tensor.isfinite().all() for tensor in tensors)
    sum(tensor.square().sum() for tensor in tensors).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    return output


def test_mmdetection3d_registers_the_supplied_modules() -> None:
    from mmdet3d.models.layers import spconv as layers
    from mmdet3d.registry import MODELS

    assert layers.IS_SPCONV2_AVAILABLE
    for name in ("SubMConv3d", "SparseConv3d", "SparseInverseConv3d", "SparseConv2d", "SubMConv4d"):
        assert MODELS.get(name) is getattr(spconv, name)
    assert sys.modules["spconv.pytorch"] is spconv


@pytest.mark.parametrize("blocks", [CONV_MODULES, BASIC_BLOCKS], ids=["conv_module", "basicblock"])
def test_second_encoder(blocks: dict[str, Any]) -> None:
    features, coords = voxels((41, 32, 40), 400, 4)
    model = build(type="SparseEncoder", in_channels=4, sparse_shape=[41, 32, 40], **blocks)
    assert assert_trains(model, features, coords, 2).shape == (2, 16 * 2, 4, 5)


def test_second_encoder_loads_what_mmcv_trained() -> None:
    """[kernel, in, out], marked as mmcv marks it; mmdetection3d's own layout, with and without."""
    features, coords = voxels((41, 32, 40), 400, 4)
    options = {"type": "SparseEncoder", "in_channels": 4, "sparse_shape": [41, 32, 40]}
    model = build(**options, **CONV_MODULES).eval()
    wanted = model(features, coords, 2)
    state = model.state_dict()
    mmcv = {k: v.movedim(0, -1).contiguous() if v.ndim == 5 else v for k, v in state.items()}
    for stored in (state, dict(state), mmcv):
        other = build(**options, **CONV_MODULES).eval()
        from mmengine.runner.checkpoint import _load_checkpoint_to_model

        _load_checkpoint_to_model(other, {"state_dict": stored}, strict=True)
        assert torch.equal(other(features, coords, 2), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_outside_seconds_encoder(dtype: torch.dtype) -> None:
    features, coords = voxels((41, 32, 40), 400, 4)
    model = build(type="SparseEncoder", in_channels=4, sparse_shape=[41, 32, 40], **CONV_MODULES)
    wanted = model(features, coords, 2)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(model(features, coords, 2), wanted)
        half = model(features.to(dtype), coords, 2)
    assert half.dtype == dtype
    half.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_part_a2_unet() -> None:
    features, coords = voxels((41, 32, 40), 400, 4)
    model = build(type="SparseUNet", in_channels=4, sparse_shape=[41, 32, 40])
    output = assert_trains(model, features, coords, 2)
    assert output["spatial_features"].shape == (2, 256, 4, 5)
    assert output["seg_features"].shape == (len(coords), 16)


def test_part_a2_box_head() -> None:
    model = build(
        type="PartA2BboxHead",
        num_classes=3,
        seg_in_channels=8,
        part_in_channels=4,
        seg_conv_channels=[8, 8],
        part_conv_channels=[8, 8],
        merge_conv_channels=[16, 16],
        down_conv_channels=[16, 16],
        shared_fc_channels=[16, 32, 32],
        cls_channels=[16, 16],
        reg_channels=[16, 16],
        roi_feat_size=14,
        loss_bbox={"type": "mmdet.SmoothL1Loss"},
        loss_cls={"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True},
    )
    occupied = torch.rand(3, 14, 14, 14, 1) < 0.2
    inputs = [torch.rand(3, 14, 14, 14, channels) * occupied for channels in (8, 4)]
    scores, boxes = assert_trains(model, *inputs)
    assert scores.shape == (3, 1)
    assert boxes.shape == (3, 7)


def test_minkunet_on_spconv() -> None:
    features, coords = voxels((33, 32, 40), 600, 4)
    model = build(
        type="MinkUNetBackbone",
        in_channels=4,
        base_channels=8,
        encoder_channels=[8, 16, 16, 24],
        decoder_channels=[24, 16, 8, 8],
        sparseconv_backend="spconv",
    )
    assert assert_trains(model, features, coords).shape == (len(coords), 8)


def test_cylinder3d_on_mmcvs_own_layers() -> None:
    features, coords = voxels((48, 36, 16), 500, 8)
    model = build(type="Asymm3DSpconv", grid_size=[48, 36, 16], input_channels=8, base_channels=4)
    output = assert_trains(model, features, coords, 2)
    assert torch.equal(output.indices, coords)
    assert output.features.shape == (len(coords), 16)


STACKS = {
    "down and up": [
        ("SubMConv3d", (4, 6, 3), {"indice_key": "s"}),
        ("SubMConv3d", (6, 6, 3), {"indice_key": "s"}),
        ("SparseConv3d", (6, 5, 3, 2, 1), {"indice_key": "d"}),
        ("SparseInverseConv3d", (5, 4, 3), {"indice_key": "d"}),
    ],
    "pooled and transposed": [
        ("SparseMaxPool3d", (2, 2), {}),
        ("SparseConvTranspose3d", (4, 5, 2, 2), {}),
        ("SubMConv3d", (5, 6, 1), {}),
    ],
}


@pytest.mark.parametrize("stack", STACKS)
def test_mmcvs_own_layers_compute_what_spconvs_do(stack: str) -> None:
    from mmcv import ops

    features, coords = voxels((9, 8, 7), 150, 4)
    layers = {
        module: nn.ModuleList(
            getattr(module, name)(*args, **kwargs) for name, args, kwargs in STACKS[stack]
        )
        for module in (ops, spconv)
    }
    layers[spconv].load_state_dict(layers[ops].state_dict())
    results = []
    for module, chain in layers.items():
        leaf = features.clone().requires_grad_()
        x = module.SparseConvTensor(leaf, coords, [9, 8, 7], 2)
        for layer in chain:
            x = layer(x)
        x.features.square().sum().backward()
        biases = [p.grad for p in chain.parameters() if p.ndim == 1]
        weights = [p.grad for p in chain.parameters() if p.ndim == 5]
        if module is ops:
            weights = [grad.movedim(-1, 0) for grad in weights]
        elif stack == "pooled and transposed":
            # The numbers of a kernel of one cell are [in, out] in spconv too.
            weights[-1] = weights[-1].reshape(1, 1, 1, 5, 6).movedim(-1, 0)
        results.append([x.features, leaf.grad, x.indices, *biases, *weights])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **tolerances(torch.float32, "data_parallel"))


def test_mmcvs_layers_over_two_axes_and_over_no_cell() -> None:
    from mmcv import ops

    features, coords = voxels((9, 8), 60, 4)
    layer = ops.SparseConv2d(4, 5, 3, 2, 1)
    out = layer(ops.SparseConvTensor(features, coords, [9, 8], 2))
    dense = nn.functional.conv2d(
        out_of(features, coords, (9, 8)), layer.weight.permute(3, 2, 0, 1), None, 2, 1
    )
    wanted = dense.movedim(1, -1)[tuple(out.indices.long().t())] + layer.bias
    torch.testing.assert_close(out.features, wanted, **tolerances(torch.float32))
    empty = layer(ops.SparseConvTensor(features[:0], coords[:0], [9, 8], 2))
    assert empty.dense().shape == (2, 5, 5, 4)


def out_of(features: Tensor, coords: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(2, C, cells)."""
    grid = features.new_zeros(2, *shape, features.shape[1])
    return grid.index_put(tuple(coords.long().t()), features).movedim(-1, 1)


@pytest.mark.parametrize("training", [True, False])
def test_bevfusions_encoder_is_anybevs_with_the_same_weights(training: bool) -> None:
    source = envs.mmdet3d_source()
    if source is None:
        pytest.skip("no checkout of mmdetection3d: set ANYBEV_MMDET3D_SRC to one")
    sys.path.append(str(source))
    try:
        __import__("projects.BEVFusion.bevfusion")
    finally:
        sys.path.remove(str(source))
    shape = [32, 40, 41]
    paddings = ((0, 0, 1), (0, 0, 1), (0, 0, (1, 1, 0)), (0, 0))
    options = {**BASIC_BLOCKS, "encoder_paddings": paddings, "in_channels": 4}
    theirs = build(type="BEVFusionSparseEncoder", sparse_shape=shape, **options)
    ours = BEVFusionSparseEncoder(sparse_shape=shape, **options)
    ours.load_state_dict(theirs.state_dict())
    features, coords = voxels(tuple(shape), 500, 4)
    results = []
    for model in (theirs.train(training), ours.train(training)):
        leaf = features.clone().requires_grad_()
        out = model(leaf, coords, 2)
        out.square().sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        results.append({"out": out, "features": leaf.grad, **grads})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        scale = float(value.detach().abs().max())
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-4 * scale, msg=name)
