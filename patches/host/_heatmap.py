"""Gaussians on a heatmap, all at once, as mmdet3d's ``draw_heatmap_gaussian`` draws them."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=256)
def _profile(radius: int) -> np.ndarray:
    """Value of a Gaussian by squared distance in cells, 0 to 2 r^2; float32.

    Sigma is (2 r + 1) / 6. Computed in float64 and rounded, as upstream does it on the host.
    """
    sigma = (2 * radius + 1) / 6
    squared = np.arange(2 * radius * radius + 1, dtype=np.float64)
    return np.exp(-squared / (2 * sigma * sigma)).astype(np.float32)


def draw_gaussians(heatmap: Tensor, plane: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> None:
    """Draw one Gaussian an object into its plane, in place; overlaps keep the larger value.

    A centre outside the grid draws what of it reaches inside, as upstream's slices do.

    Args:
        heatmap: (C, H, W) float32, contiguous.
        plane: (N,) int64, which of the C.
        x: (N,) int64, centre column.
        y: (N,) int64, centre row.
        radius: (N,) int64, at least 0.
    """
    height, width = heatmap.shape[1:]
    left, top = (x - radius).clamp(min=0), (y - radius).clamp(min=0)
    columns = ((x + radius).clamp(max=width - 1) - left + 1).clamp(min=0)
    rows = ((y + radius).clamp(max=height - 1) - top + 1).clamp(min=0)
    area = rows * columns
    box = torch.repeat_interleave(area)  # the one wait for the device, with the radii below
    if box.numel() == 0:
        return
    offset = torch.arange(box.numel(), device=box.device) - (torch.cumsum(area, 0) - area)[box]
    cell_x = left[box] + offset % columns[box]
    cell_y = top[box] + offset // columns[box]
    squared = (cell_x - x[box]) ** 2 + (cell_y - y[box]) ** 2

    sizes, which = torch.unique(radius, return_inverse=True)
    profiles = [_profile(size) for size in sizes.tolist()]
    starts = np.cumsum([0] + [len(profile) for profile in profiles[:-1]])
    table = torch.from_numpy(np.concatenate(profiles)).to(heatmap.device)
    start = torch.from_numpy(starts).to(heatmap.device)[which]
    value = table[start[box] + squared]
    cell = (plane[box] * height + cell_y) * width + cell_x
    heatmap.view(-1).scatter_reduce_(0, cell, value, "amax")
