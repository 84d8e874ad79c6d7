"""Convolution, normalisation and ReLU under the parameter names mmcv's ConvModule has."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from anybev.models.common.layers import make_conv, make_norm


class ConvModule(nn.Module):
    """``relu(bn(conv(x)))`` with keys ``conv.weight`` and ``bn.*``; the convolution has no bias.

    Initialised as upstream: Kaiming normal over the fan-out.

    Args:
        in_channels, out_channels, kernel_size, padding: of the convolution, stride 1.
        conv_cfg: layer description, ``dict(type="Conv2d")``.
        norm_cfg: layer description, ``dict(type="BN2d")``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int = 0,
        *,
        conv_cfg: Mapping[str, Any],
        norm_cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.conv = make_conv(
            conv_cfg, in_channels, out_channels, kernel_size, padding=padding, bias=False
        )
        self.bn = make_norm(norm_cfg, out_channels)
        self.activate = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, ...) to (B, C_out, ...)."""
        out: Tensor = self.activate(self.bn(self.conv(x)))
        return out
