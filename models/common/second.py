"""SECOND's 2D backbone over a bird's-eye-view map."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from anybev.models.common.layers import make_conv, make_norm

_NORM = {"type": "BN", "eps": 1e-3, "momentum": 0.01}
_CONV = {"type": "Conv2d", "bias": False}


class SECOND(nn.Module):
    """Stages of 3x3 convolutions; the first of a stage carries the stride.

    Source: Yan et al., "SECOND", Sensors 2018; keys as in mmdetection3d (``blocks.<stage>.<i>``).

    Args:
        in_channels: channels of the map.
        out_channels: channels of each stage.
        layer_nums: convolutions of a stage after its first.
        layer_strides: stride of each stage's first convolution.
        norm_cfg, conv_cfg: layer descriptions.
    """

    def __init__(
        self,
        in_channels: int = 256,
        out_channels: Sequence[int] = (128, 256),
        layer_nums: Sequence[int] = (5, 5),
        layer_strides: Sequence[int] = (1, 2),
        norm_cfg: Mapping[str, Any] = _NORM,
        conv_cfg: Mapping[str, Any] = _CONV,
    ) -> None:
        super().__init__()
        if not len(out_channels) == len(layer_nums) == len(layer_strides):
            raise ValueError(
                "SECOND: out_channels, layer_nums and layer_strides must be equally long, got "
                f"{len(out_channels)}, {len(layer_nums)} and {len(layer_strides)}"
            )
        self.blocks = nn.ModuleList()
        width = in_channels
        for channels, count, stride in zip(out_channels, layer_nums, layer_strides, strict=True):
            layers: list[nn.Module] = []
            for index in range(count + 1):
                step = stride if index == 0 else 1
                layers += [
                    make_conv(conv_cfg, width, channels, 3, stride=step, padding=1),
                    make_norm(norm_cfg, channels),
                    nn.ReLU(inplace=True),
                ]
                width = channels
            self.blocks.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One map a stage, each (B, C_s, X / stride, Y / stride)."""
        stages = []
        for block in self.blocks:
            x = block(x)
            stages.append(x)
        return tuple(stages)
