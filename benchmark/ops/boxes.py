"""Boxes for the benchmarks of box operators: a street's worth, the same in every run."""

import torch
from torch import Tensor

# Mean length, width, height in metres: car, truck, bus, pedestrian, cone.
_SIZES_M = (
    (4.6, 1.95, 1.7),
    (6.9, 2.5, 2.8),
    (11.0, 2.9, 3.5),
    (0.73, 0.67, 1.77),
    (0.4, 0.4, 1.1),
)


def street_boxes(count: int, *, spread_m: float = 50.0, seed: int = 0) -> Tensor:
    """(count, 9) float32 boxes within ``spread_m`` of the lidar, sizes within 15 % of a class."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.zeros(count, 9)
    boxes[:, :2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * spread_m
    boxes[:, 2] = -1.8
    classes = torch.randint(0, len(_SIZES_M), (count,), generator=generator)
    scale = 0.85 + 0.3 * torch.rand(count, 3, generator=generator)
    boxes[:, 3:6] = torch.tensor(_SIZES_M)[classes] * scale
    boxes[:, 6] = (torch.rand(count, generator=generator) * 2 - 1) * torch.pi
    return boxes


def seen_from_above(boxes_lidar: Tensor) -> Tensor:
    """(N, 5) x, y, dx, dy, yaw of ``boxes_lidar``."""
    return boxes_lidar[:, [0, 1, 3, 4, 6]].contiguous()
