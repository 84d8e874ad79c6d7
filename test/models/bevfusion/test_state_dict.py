"""Parameter names and shapes that published checkpoints have."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

import anybev
from anybev.engine.builder import build_detector
from anybev.testing.golden import fill

Shapes = dict[str, tuple[int, ...]]
CONFIG = "configs/_base_/models/bevfusion_lidar_voxel0075_second_secfpn.py"
CAMERA_CONFIG = "configs/_base_/models/bevfusion_lidar-cam_voxel0075_second_secfpn.py"


def _norm(prefix: str, channels: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    shapes: Shapes = {f"{prefix}.{name}": (channels,) for name in names}
    return shapes | {f"{prefix}.num_batches_tracked": ()}


def _affine(prefix: str, *weight: int, width: int | None = None) -> Shapes:
    return {f"{prefix}.weight": weight, f"{prefix}.bias": (width or weight[0],)}


def _sparse_encoder() -> Shapes:
    p = "pts_middle_encoder."
    shapes: Shapes = {f"{p}conv_input.0.weight": (16, 3, 3, 3, 5), **_norm(f"{p}conv_input.1", 16)}
    widths = (16, 32, 64, 128)
    for level, width in enumerate(widths):
        layer = f"{p}encoder_layers.encoder_layer{level + 1}"
        for block in (0, 1):
            for i in (1, 2):
                shapes[f"{layer}.{block}.conv{i}.weight"] = (width, 3, 3, 3, width)
                shapes |= _norm(f"{layer}.{block}.bn{i}", width)
        if level < 3:
            shapes[f"{layer}.2.0.weight"] = (widths[level + 1], 3, 3, 3, width)
            shapes |= _norm(f"{layer}.2.1", widths[level + 1])
    shapes[f"{p}conv_out.0.weight"] = (128, 1, 1, 3, 128)
    return shapes | _norm(f"{p}conv_out.1", 128)


def _trunk() -> Shapes:
    shapes: Shapes = {}
    for stage, (width, channels) in enumerate(((256, 128), (128, 256))):
        for i in range(6):
            shape = (channels, width if i == 0 else channels, 3, 3)
            shapes[f"pts_backbone.blocks.{stage}.{3 * i}.weight"] = shape
            shapes |= _norm(f"pts_backbone.blocks.{stage}.{3 * i + 1}", channels)
    shapes["pts_neck.deblocks.0.0.weight"] = (256, 128, 1, 1)
    shapes["pts_neck.deblocks.1.0.weight"] = (256, 256, 2, 2)
    return shapes | _norm("pts_neck.deblocks.0.1", 256) | _norm("pts_neck.deblocks.1.1", 256)


def _head() -> Shapes:
    p = "bbox_head."
    shapes = _affine(f"{p}shared_conv", 128, 512, 3, 3)
    shapes[f"{p}heatmap_head.0.conv.weight"] = (128, 128, 3, 3)
    shapes |= _norm(f"{p}heatmap_head.0.bn", 128) | _affine(f"{p}heatmap_head.1", 10, 128, 3, 3)
    shapes |= _affine(f"{p}class_encoding", 128, 10, 1)
    d = f"{p}decoder.0."
    for name in ("self_attn", "cross_attn"):
        shapes[f"{d}{name}.attn.in_proj_weight"] = (384, 128)
        shapes[f"{d}{name}.attn.in_proj_bias"] = (384,)
        shapes |= _affine(f"{d}{name}.attn.out_proj", 128, 128)
    shapes |= _affine(f"{d}ffn.layers.0.0", 256, 128) | _affine(f"{d}ffn.layers.1", 128, 256)
    for i in range(3):
        shapes |= _affine(f"{d}norms.{i}", 128)
    for name in ("self_posembed", "cross_posembed"):
        embed = f"{d}{name}.position_embedding_head"
        shapes |= _affine(f"{embed}.0", 128, 2, 1) | _norm(f"{embed}.1", 128)
        shapes |= _affine(f"{embed}.3", 128, 128, 1)
    numbers = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "heatmap": 10}
    for name, count in numbers.items():
        branch = f"{p}prediction_heads.0.{name}"
        shapes[f"{branch}.0.conv.weight"] = (64, 128, 1)
        shapes |= _norm(f"{branch}.0.bn", 64) | _affine(f"{branch}.1", count, 64, 1)
    return shapes


def _swin() -> Shapes:
    p = "img_backbone."
    shapes = _affine(f"{p}patch_embed.projection", 96, 3, 4, 4) | _affine(
        f"{p}patch_embed.norm", 96
    )
    for stage, (depth, heads) in enumerate(((2, 3), (2, 6), (6, 12), (2, 24))):
        width = 96 * 2**stage
        for i in range(depth):
            block = f"{p}stages.{stage}.blocks.{i}"
            shapes |= _affine(f"{block}.norm1", width) | _affine(f"{block}.norm2", width)
            shapes[f"{block}.attn.w_msa.relative_position_bias_table"] = (169, heads)
            shapes[f"{block}.attn.w_msa.relative_position_index"] = (49, 49)
            shapes |= _affine(f"{block}.attn.w_msa.qkv", 3 * width, width)
            shapes |= _affine(f"{block}.attn.w_msa.proj", width, width)
            shapes |= _affine(f"{block}.ffn.layers.0.0", 4 * width, width)
            shapes |= _affine(f"{block}.ffn.layers.1", width, 4 * width)
        if stage < 3:
            shapes |= _affine(f"{p}stages.{stage}.downsample.norm", 4 * width)
            shapes[f"{p}stages.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
        if stage > 0:
            shapes |= _affine(f"{p}norm{stage}", width)
    return shapes


def _view_transform() -> Shapes:
    p = "view_transform."
    shapes: Shapes = {f"{p}{name}": (3,) for name in ("dx", "bx", "nx")}
    shapes[f"{p}frustum"] = (118, 32, 88, 3)
    depth = (((8, 1, 1, 1), 8), ((32, 8, 5, 5), 32), ((64, 32, 5, 5), 64))
    for i, (weight, width) in enumerate(depth):
        shapes |= _affine(f"{p}dtransform.{3 * i}", *weight)
        shapes |= _norm(f"{p}dtransform.{3 * i + 1}", width)
    for i, width in enumerate((320, 256)):
        shapes |= _affine(f"{p}depthnet.{3 * i}", 256, width, 3, 3)
        shapes |= _norm(f"{p}depthnet.{3 * i + 1}", 256)
    shapes |= _affine(f"{p}depthnet.6", 198, 256, 1, 1)
    for i in range(3):
        shapes[f"{p}downsample.{3 * i}.weight"] = (80, 80, 3, 3)
        shapes |= _norm(f"{p}downsample.{3 * i + 1}", 80)
    return shapes


def _camera_branch() -> Shapes:
    shapes = _swin() | _view_transform()
    for i, width in enumerate((448, 1152)):
        shapes[f"img_neck.lateral_convs.{i}.conv.weight"] = (256, width, 1, 1)
        shapes[f"img_neck.fpn_convs.{i}.conv.weight"] = (256, 256, 3, 3)
        shapes |= _norm(f"img_neck.lateral_convs.{i}.bn", 256)
        shapes |= _norm(f"img_neck.fpn_convs.{i}.bn", 256)
    shapes["fusion_layer.0.weight"] = (256, 336, 3, 3)
    return shapes | _norm("fusion_layer.1", 256)


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    config = Config.fromfile(Path(anybev.__file__).parent / CONFIG)
    return build_detector(config.model)


@pytest.fixture(scope="module")
def camera_detector() -> nn.Module:
    config = Config.fromfile(Path(anybev.__file__).parent / CAMERA_CONFIG)
    return build_detector(config.model)


def test_keys_and_shapes_are_those_of_published_checkpoints(detector: nn.Module) -> None:
    got = {key: tuple(value.shape) for key, value in detector.state_dict().items()}
    assert got == _sparse_encoder() | _trunk() | _head()
    assert len(got) == 306


def test_keys_and_shapes_with_cameras_are_those_of_published_checkpoints(
    camera_detector: nn.Module,
) -> None:
    got = {key: tuple(value.shape) for key, value in camera_detector.state_dict().items()}
    assert got == _sparse_encoder() | _trunk() | _head() | _camera_branch()
    assert len(got) == 582
    assert len(camera_detector.img_backbone.state_dict()) == 187


def test_parameters_with_cameras_count_as_published(camera_detector: nn.Module) -> None:
    parameters = list(camera_detector.parameters())
    assert sum(p.numel() for p in parameters if p.requires_grad) == 39_803_214
    assert sum(p.numel() for p in camera_detector.img_backbone.parameters()) == 27_520_506
    frozen = [n for n, p in camera_detector.named_parameters() if not p.requires_grad]
    assert frozen == [f"view_transform.{name}" for name in ("dx", "bx", "nx", "frustum")]


def test_settings_of_the_camera_branch(camera_detector: nn.Module) -> None:
    for name, module in camera_detector.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5, name
        elif isinstance(module, nn.BatchNorm2d) and name.startswith(("img", "view", "fusion")):
            assert (module.eps, module.momentum) == (1e-5, 0.1), name
    blocks = [block for stage in camera_detector.img_backbone.stages for block in stage.blocks]
    rates = [block.drop_path.rate for block in blocks]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])
    assert [block.attn.shift_size for block in blocks] == [0, 3] * 6


def test_trainable_parameters_count_as_published(detector: nn.Module) -> None:
    assert sum(p.numel() for p in detector.parameters()) == 8_306_030
    assert sum(p.numel() for p in detector.pts_middle_encoder.parameters()) == 2_694_352


def test_settings_of_every_batch_norm(detector: nn.Module) -> None:
    for name, module in detector.named_modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            wanted = (1e-5, 0.1) if name.startswith("bbox_head") else (1e-3, 0.01)
            assert (module.eps, module.momentum) == wanted, name


def test_initialisation_follows_upstream(detector: nn.Module) -> None:
    head = detector.bbox_head
    attention = head.decoder[0].self_attn.attn.in_proj_weight
    assert attention.abs().max() <= (6 / (384 + 128)) ** 0.5
    assert head.heatmap_head[1].bias.abs().max() <= (128 * 9) ** -0.5
    conv = head.heatmap_head[0].conv.weight
    torch.testing.assert_close(conv.std().item(), (2 / (128 * 9)) ** 0.5, rtol=0.02, atol=0)
    sparse = detector.pts_middle_encoder.encoder_layers["encoder_layer4"][0].conv1.weight
    bound = (27 * 128) ** -0.5
    assert 0.99 * bound < sparse.abs().max() <= bound


@pytest.mark.parametrize(
    ("model", "name"), [("lidar_only", "detector"), ("lidar_cam", "camera_detector")]
)
def test_golden_weights_match_the_recorded_checksum(
    model: str, name: str, test_data: Path, request: pytest.FixtureRequest
) -> None:
    detector: nn.Module = request.getfixturevalue(name)
    meta = json.loads((test_data / "golden" / "meta.json").read_text())
    shapes = {key: tuple(value.shape) for key, value in detector.state_dict().items()}
    assert all(tuple(meta["state_dict"][key][0]) == shape for key, shape in shapes.items())
    checksum = 0
    values = fill(shapes, meta["packs"]["a"]["seed"])
    for key in sorted(values):
        dtype = np.int64 if key.endswith("num_batches_tracked") else np.float32
        checksum = zlib.crc32(values[key].astype(dtype).tobytes(), checksum)
    assert checksum == meta["fill_crc32"][f"a.{model}"]
