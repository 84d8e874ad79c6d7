"""Swin Transformer: an image backbone of attention in shifted windows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anybev.models.common.layers import make_norm
from anybev.models.common.window_attention import ShiftWindowMSA

_NORM = {"type": "LN"}
_ACTIVATION = {"type": "GELU"}


class DropPath(nn.Module):
    """Leaves a residual branch out for whole samples, at random, while training.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    Args:
        rate: share of samples whose branch is left out; the others are scaled up to make up.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"DropPath: rate must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to the same."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))


class FFN(nn.Module):
    """Two-layer perceptron with keys ``layers.0.0`` and ``layers.1``."""

    def __init__(self, embed_dims: int, hidden: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(embed_dims, hidden), nn.GELU(), nn.Dropout(drop_rate)),
            nn.Linear(hidden, embed_dims),
            nn.Dropout(drop_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        out: Tensor = self.layers(x)
        return out


class PatchEmbed(nn.Module):
    """Non-overlapping patches of a picture to vectors; the last ones are filled up with zeros."""

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        norm_cfg: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.norm = nn.Identity() if norm_cfg is None else make_norm(norm_cfg, embed_dims)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, H / patch, W / patch, C), both rounded up."""
        height, width = images.shape[-2:]
        below, right = -height % self.patch_size, -width % self.patch_size
        if below or right:
            images = nn.functional.pad(images, (0, right, 0, below))
        out: Tensor = self.norm(self.projection(images).permute(0, 2, 3, 1))
        return out


class PatchMerging(nn.Module):
    """Each 2 x 2 block of cells to one cell of twice the channels."""

    def __init__(self, in_channels: int, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = make_norm(norm_cfg, 4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, 2 * in_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H / 2, W / 2, 2 C), both rounded up."""
        batch, height, width, channels = x.shape
        if height % 2 or width % 2:
            x = nn.functional.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        # Channel c of the cell in row i, column j of a block goes to c * 4 + i * 2 + j.
        blocks = x.view(batch, rows, 2, columns, 2, channels).permute(0, 1, 3, 5, 2, 4)
        out: Tensor = self.reduction(self.norm(blocks.reshape(batch, rows, columns, -1)))
        return out


class SwinBlock(nn.Module):
    """Attention in windows, then a perceptron, each on a residual branch behind a norm."""

    def __init__(
        self,
        embed_dims: int,
        hidden: int,
        drop_path_rate: float,
        norm_cfg: Mapping[str, Any],
        drop_rate: float,
        attention: Mapping[str, Any],
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = make_norm(norm_cfg, embed_dims)
        self.attn = ShiftWindowMSA(embed_dims, proj_drop_rate=drop_rate, **attention)
        self.norm2 = make_norm(norm_cfg, embed_dims)
        self.ffn = FFN(embed_dims, hidden, drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        if self.with_cp and x.requires_grad:
            out: Tensor = checkpoint(self._run, x, use_reentrant=False)
            return out
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.ffn(self.norm2(x)))
        return out


class SwinStage(nn.Module):
    """Blocks over one size of map; ``downsample`` leads to the next stage."""

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same, without the downsampling."""
        for block in self.blocks:
            x = block(x)
        return x


class SwinTransformer(nn.Module):
    """Swin Transformer with mmdetection's names and state-dict keys.

    Source: Liu et al., "Swin Transformer", ICCV 2021. Initialised as there: normal of standard
    deviation 0.02 for linear layers and bias tables, zero for biases.

    Args:
        pretrain_img_size: side of the pictures that ``use_abs_pos_embed`` was trained on, pixels.
        in_channels: of the pictures.
        embed_dims: channels of the first stage; each further stage has twice as many.
        patch_size: pixels along a patch's side.
        window_size: cells along a window's side.
        mlp_ratio: width of the perceptrons over the stage's channels.
        depths: blocks of each stage; every second one is shifted by half a window.
        num_heads: attention heads of each stage.
        strides: accepted for mmdetection's configs: the patch size, then 2 for each further stage.
        out_indices: stages whose maps are returned.
        qkv_bias, qk_scale, attn_drop_rate: see `WindowMSA`.
        patch_norm: norm behind the patch embedding.
        drop_rate: dropout on embeddings, attention outputs and perceptrons.
        drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
        use_abs_pos_embed: not supported: only False.
        act_cfg, norm_cfg: layer descriptions; GELU alone is supported.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        convert_weights: whether the file of ``init_cfg`` has the names of the official repository.
        frozen_stages: the patch embedding (0) and so many stages keep their weights; -1: none.
        init_cfg: where pretrained weights are; read by whoever loads checkpoints.
    """

    def __init__(
        self,
        pretrain_img_size: int = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: Mapping[str, Any] = _ACTIVATION,
        norm_cfg: Mapping[str, Any] = _NORM,
        with_cp: bool = False,
        convert_weights: bool = False,
        frozen_stages: int = -1,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        stages = len(depths)
        _check(depths, num_heads, strides, out_indices, patch_size, frozen_stages)
        _check_supported(use_abs_pos_embed, act_cfg)
        self.pretrain_img_size = pretrain_img_size
        self.out_indices = tuple(out_indices)
        self.convert_weights = convert_weights
        self.frozen_stages = frozen_stages
        self.init_cfg = init_cfg
        embed_norm = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size, embed_norm)
        self.drop_after_pos = nn.Dropout(drop_rate)
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.stages = nn.ModuleList()
        widths = [embed_dims * 2**i for i in range(stages)]
        attention = {
            "window_size": window_size,
            "qkv_bias": qkv_bias,
            "qk_scale": qk_scale,
            "attn_drop_rate": attn_drop_rate,
        }
        for index, (width, depth, heads) in enumerate(zip(widths, depths, num_heads, strict=True)):
            blocks = [
                SwinBlock(
                    width,
                    int(mlp_ratio * width),
                    next(rates),
                    norm_cfg,
                    drop_rate,
                    attention | {"num_heads": heads, "shift_size": block % 2 * (window_size // 2)},
                    with_cp,
                )
                for block in range(depth)
            ]
            last = index == stages - 1
            self.stages.append(SwinStage(blocks, None if last else PatchMerging(width, norm_cfg)))
        for index in self.out_indices:
            self.add_module(f"norm{index}", make_norm(norm_cfg, widths[index]))
        self.apply(_initialise)
        self._freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C_in, H, W) to one map a stage of ``out_indices``: (B, C_i, H_i, W_i)."""
        x = self.drop_after_pos(self.patch_embed(images))
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                norm = self.get_submodule(f"norm{index}")
                maps.append(norm(x).permute(0, 3, 1, 2))
            if index + 1 < len(self.stages):
                x = stage.get_submodule("downsample")(x)
        return tuple(maps)

    def train(self, mode: bool = True) -> "SwinTransformer":
        """Training or evaluation mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_pos]
        for index in range(self.frozen_stages):
            frozen.append(self.stages[index])
            if index in self.out_indices:
                frozen.append(self.get_submodule(f"norm{index}"))
        for module in frozen:
            module.eval().requires_grad_(False)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_supported(use_abs_pos_embed: bool, act_cfg: Mapping[str, Any]) -> None:
    if use_abs_pos_embed:
        raise ValueError("SwinTransformer: use_abs_pos_embed must be False, got True")
    if act_cfg.get("type") != "GELU":
        raise ValueError(f"SwinTransformer: act_cfg must be of type GELU, got {act_cfg}")


def _check(
    depths: Sequence[int],
    num_heads: Sequence[int],
    strides: Sequence[int],
    out_indices: Sequence[int],
    patch_size: int,
    frozen_stages: int,
) -> None:
    stages = len(depths)
    if len(num_heads) != stages:
        raise ValueError(
            f"SwinTransformer: num_heads must be as many as depths ({stages}), got {len(num_heads)}"
        )
    wanted = [patch_size] + [2] * (stages - 1)
    if list(strides)[:stages] != wanted:
        raise ValueError(f"SwinTransformer: strides must be {wanted}, got {list(strides)}")
    if not all(0 <= index < stages for index in out_indices):
        raise ValueError(
            f"SwinTransformer: out_indices must be in 0..{stages - 1}, got {list(out_indices)}"
        )
    if not -1 <= frozen_stages <= stages:
        raise ValueError(
            f"SwinTransformer: frozen_stages must be in -1..{stages}, got {frozen_stages}"
        )
