"""A module that does nothing."""

from typing import Any

from torch import nn

__all__ = ["Identity"]


class Identity(nn.Module):
    """Hands its input on."""

    def forward(self, input: Any) -> Any:
        """The input."""
        return input

    def input_spatial_size(self, out_size: Any) -> Any:
        """The size of the input, given that of the output."""
        return out_size
