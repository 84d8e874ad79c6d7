"""mmdet3d's Gaussian radius waits for the device twice an object."""

from collections.abc import Callable

import torch
from torch import Tensor

Radius = Callable[..., Tensor]


def radius_of(height: Tensor, width: Tensor, min_overlap: float) -> Tensor:
    """Radius in cells of boxes of ``height`` x ``width`` cells; any one shape, same rounding.

    The roots divide by 2 and not by 2a, as CornerNet's first release did: checkpoints were trained
    with these targets.
    """
    total = height + width
    shared = width * height * (1 - min_overlap) / (1 + min_overlap)
    first = (total + torch.sqrt(total**2 - 4 * shared)) / 2
    inner, twice = (1 - min_overlap) * width * height, 2 * (height + width)
    second = (twice + torch.sqrt(twice**2 - 16 * inner)) / 2
    outer, scaled = (min_overlap - 1) * width * height, -2 * min_overlap * (height + width)
    third = (scaled + torch.sqrt(scaled**2 - 4 * (4 * min_overlap) * outer)) / 2
    return torch.minimum(torch.minimum(first, second), third)


def replace(original: Radius) -> Radius:
    """``gaussian_radius`` without Python's ``min``, which copies each comparison to the host.

    The same numbers, bit for bit; heads of other projects that draw object by object gain too.
    """
    del original

    def gaussian_radius(det_size: tuple[Tensor, Tensor], min_overlap: float = 0.5) -> Tensor:
        height, width = det_size
        return radius_of(height, width, min_overlap)

    return gaussian_radius
