"""Neck over an image backbone's maps, coarse to fine."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anybev.models.common.conv_module import ConvModule

_NORM = {"type": "BN2d"}
_CONV = {"type": "Conv2d"}
_ACTIVATION = {"type": "ReLU"}
_UPSAMPLE = {"mode": "bilinear", "align_corners": True}


class GeneralizedLSSFPN(nn.Module):
    """Each map joined with the enlarged coarser one; keys ``lateral_convs.*``, ``fpn_convs.*``.

    Source: mmdetection3d's BEVFusion project.

    Args:
        in_channels: of each map, fine to coarse.
        out_channels: of every map that comes out.
        num_outs: accepted for mmdetection3d's configs; one map fewer than come in goes out.
        start_level, end_level: only 0 and -1: all maps are used.
        no_norm_on_lateral: only False.
        norm_cfg, conv_cfg: layer descriptions.
        act_cfg: only ReLU.
        upsample_cfg: arguments of ``torch.nn.functional.interpolate``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int = 0,
        start_level: int = 0,
        end_level: int = -1,
        no_norm_on_lateral: bool = False,
        norm_cfg: Mapping[str, Any] = _NORM,
        conv_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] = _ACTIVATION,
        upsample_cfg: Mapping[str, Any] = _UPSAMPLE,
    ) -> None:
        super().__init__()
        only = {
            "start_level": (start_level, 0),
            "end_level": (end_level, -1),
            "no_norm_on_lateral": (no_norm_on_lateral, False),
            "act_cfg type": (act_cfg.get("type"), "ReLU"),
        }
        for name, (value, wanted) in only.items():
            if value != wanted:
                raise ValueError(f"GeneralizedLSSFPN: {name} must be {wanted!r}, got {value!r}")
        if len(in_channels) < 2:
            raise ValueError(
                f"GeneralizedLSSFPN: in_channels must be of at least 2 maps, got {in_channels}"
            )
        self.in_channels = list(in_channels)
        self.upsample = dict(upsample_cfg)
        layers: dict[str, Any] = {"conv_cfg": conv_cfg or _CONV, "norm_cfg": norm_cfg}
        coarser = [out_channels] * (len(in_channels) - 2) + [in_channels[-1]]
        self.lateral_convs = nn.ModuleList(
            ConvModule(fine + coarse, out_channels, 1, **layers)
            for fine, coarse in zip(in_channels[:-1], coarser, strict=True)
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, **layers) for _ in coarser
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i), fine to coarse, to (B, out_channels, H_i, W_i), less the last.

        Raises:
            ValueError: another number of maps than ``in_channels`` has.
        """
        if len(maps) != len(self.in_channels):
            raise ValueError(
                f"GeneralizedLSSFPN: maps must be {len(self.in_channels)}, got {len(maps)}; try "
                "other out_indices of the backbone"
            )
        out = list(maps)
        for level in reversed(range(len(out) - 1)):
            size = out[level].shape[-2:]
            coarse = nn.functional.interpolate(out[level + 1], size=size, **self.upsample)
            joined = torch.cat([out[level], coarse], dim=1)
            out[level] = self.fpn_convs[level](self.lateral_convs[level](joined))
        return tuple(out[:-1])
