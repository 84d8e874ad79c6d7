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


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    config = Config.fromfile(Path(anybev.__file__).parent / CONFIG)
    return build_detector(config.model)


def test_keys_and_shapes_are_those_of_published_checkpoints(detector: nn.Module) -> None:
    got = {key: tuple(value.shape) for key, value in detector.state_dict().items()}
    assert got == _sparse_encoder() | _trunk() | _head()
    assert len(got) == 306


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


def test_golden_weights_match_the_recorded_checksum(detector: nn.Module, test_data: Path) -> None:
    meta = json.loads((test_data / "golden" / "meta.json").read_text())
    shapes = {key: tuple(value.shape) for key, value in detector.state_dict().items()}
    assert all(tuple(meta["state_dict"][key][0]) == shape for key, shape in shapes.items())
    checksum = 0
    values = fill(shapes, meta["packs"]["a"]["seed"])
    for key in sorted(values):
        dtype = np.int64 if key.endswith("num_batches_tracked") else np.float32
        checksum = zlib.crc32(values[key].astype(dtype).tobytes(), checksum)
    assert checksum == meta["fill_crc32"]["a.lidar_only"]
