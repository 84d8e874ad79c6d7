"""Bird's-eye-view maps of several sensors to one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvFuser(nn.Sequential):
    """Concatenates the sensors' maps and convolves them; keys ``0.weight`` and ``1.*``.

    Source: Liu et al., BEVFusion, ICRA 2023.

    Args:
        in_channels: of each sensor's map, the cameras' first.
        out_channels: of the fused map.
    """

    def __init__(self, in_channels: Sequence[int] | int, out_channels: int) -> None:
        widths = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        super().__init__(
            nn.Conv2d(sum(widths), out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.in_channels = widths
        self.out_channels = out_channels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, X, Y) of one size to (B, out_channels, X, Y).

        Raises:
            ValueError: the maps differ in size, or are not those of ``in_channels``.
        """
        widths = [m.shape[1] for m in maps]
        if widths != self.in_channels:
            raise ValueError(f"ConvFuser: channels must be {self.in_channels}, got {widths}")
        sizes = {tuple(m.shape[-2:]) for m in maps}
        if len(sizes) > 1:
            raise ValueError(
                f"ConvFuser: maps must be of one size, got {sorted(sizes)}; try another xbound, "
                "ybound or downsample of the view transform"
            )
        bev = torch.cat(list(maps), dim=1)
        for layer in self:
            bev = layer(bev)
        return bev
