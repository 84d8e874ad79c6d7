"""SECOND's neck: every stage brought to one size and concatenated."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anybev.models.common.layers import make_conv, make_norm

_NORM = {"type": "BN", "eps": 1e-3, "momentum": 0.01}
_CONV = {"type": "Conv2d", "bias": False}
_UPSAMPLE = {"type": "deconv", "bias": False}


class SECONDFPN(nn.Module):
    """Upsample each stage by its stride and concatenate along the channels.

    Keys as in mmdetection3d (``deblocks.<stage>.{0,1}``).

    Args:
        in_channels: channels of each incoming map.
        out_channels: channels each map gets.
        upsample_strides: factor each map is enlarged by (kernel equals stride).
        norm_cfg, conv_cfg, upsample_cfg: layer descriptions.
        use_conv_for_no_stride: a stage of stride 1 gets a convolution, not a transposed one.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (128, 256),
        out_channels: Sequence[int] = (256, 256),
        upsample_strides: Sequence[int] = (1, 2),
        norm_cfg: Mapping[str, Any] = _NORM,
        upsample_cfg: Mapping[str, Any] = _UPSAMPLE,
        conv_cfg: Mapping[str, Any] = _CONV,
        use_conv_for_no_stride: bool = False,
    ) -> None:
        super().__init__()
        if not len(in_channels) == len(out_channels) == len(upsample_strides):
            raise ValueError(
                "SECONDFPN: in_channels, out_channels and upsample_strides must be equally long, "
                f"got {len(in_channels)}, {len(out_channels)} and {len(upsample_strides)}"
            )
        self.deblocks = nn.ModuleList()
        for width, channels, stride in zip(
            in_channels, out_channels, upsample_strides, strict=True
        ):
            enlarge = stride > 1 or not use_conv_for_no_stride
            layer = make_conv(
                upsample_cfg if enlarge else conv_cfg, width, channels, stride, stride=stride
            )
            self.deblocks.append(
                nn.Sequential(layer, make_norm(norm_cfg, channels), nn.ReLU(inplace=True))
            )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Maps of the stages to one (B, sum of out_channels, X, Y)."""
        maps = [block(stage) for block, stage in zip(self.deblocks, stages, strict=True)]
        return torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]
