"""Inputs of the camera operators: pooling, lifting, depth from lidar."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anybev.device.ops.bev_pool import bev_pool
from anybev.device.ops.lift_splat import lift_splat
from anybev.device.ops.rasterize_depth import rasterize_depth
from anybev.engine.check.case import WIDE, Case, Draw

_POOL = {"batch_size": 2, "grid": (12, 10, 2)}


def _pooled(draw: Draw, points: int, channels: int, **changes: Any) -> Mapping[str, Any]:
    setting: dict[str, Any] = _POOL | changes
    bounds = (setting["batch_size"], *setting["grid"])
    columns = [draw.integers(0, bound, points) for bound in bounds]
    coords = torch.stack(columns, 1).int()
    return {"features": draw.normal(points, channels), "coords": coords, **setting}


_POOLED: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
    "600 points x 8": partial(_pooled, points=600, channels=8),
    "600 points x 80": partial(_pooled, points=600, channels=80),
    "200 points x 5": partial(_pooled, points=200, channels=5),
    "200 points x 360": partial(_pooled, points=200, channels=360),
    "200 points x 361": partial(_pooled, points=200, channels=361),
    "4000 points in 4 cells": partial(
        _pooled, points=4000, channels=8, batch_size=1, grid=(2, 2, 1)
    ),
    "one point x 1": partial(_pooled, points=1, channels=1),
    "no point": partial(_pooled, points=0, channels=8),
}


def _rays(height: int, width: int, cameras: int) -> Tensor:
    """(cameras, height, width, 3) rays of cameras that look outward, evenly spread."""
    across = (torch.arange(width) + 0.5) / width * 1.2 - 0.6
    down = (torch.arange(height) + 0.5) / height * 0.6 - 0.3
    y, x = torch.meshgrid(down, across, indexing="ij")
    rays = []
    for index in range(cameras):
        cos = math.cos(2 * math.pi * index / cameras + 0.1)
        sin = math.sin(2 * math.pi * index / cameras + 0.1)
        rays.append(torch.stack([cos + sin * x, sin - cos * x, -y], -1))
    return torch.stack(rays)


def _lifted(
    draw: Draw,
    channels: int,
    *,
    depths: int = 12,
    size: tuple[int, int] = (4, 6),
    cameras: int = 3,
    batch_size: int = 2,
    grid: tuple[int, int, int] = (16, 20, 1),
) -> Mapping[str, Any]:
    height, width = size
    low = (-8.0, -10.0, -10.0)
    return {
        "logits": draw.normal(batch_size, cameras, depths + channels, height, width),
        "rays_m": _rays(height, width, cameras).expand(batch_size, -1, -1, -1, -1).clone(),
        "origins_m": draw.uniform(batch_size, cameras, 3, low=-0.5, high=0.5),
        "depths_m": torch.arange(depths) * 0.75 + 1,
        "lower_m": low,
        "cell_size_m": tuple(-2 * lo / n for lo, n in zip(low, grid, strict=True)),
        "grid": grid,
    }


def _nothing_hit(draw: Draw) -> Mapping[str, Any]:
    made = dict(_lifted(draw, 8))
    made["origins_m"] = torch.full_like(made["origins_m"], 500.0)
    made["origins_m"][0, 0, 0] = math.nan
    return made


_LIFTED: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
    "8 channels": partial(_lifted, channels=8),
    "80 channels": partial(_lifted, channels=80),
    "5 channels": partial(_lifted, channels=5),
    "360 channels": partial(_lifted, channels=360, size=(2, 3)),
    "361 channels": partial(_lifted, channels=361, size=(2, 3)),
    "two levels": partial(_lifted, channels=8, grid=(16, 20, 2)),
    "one pixel, one depth": partial(
        _lifted, channels=1, depths=1, size=(1, 1), cameras=1, batch_size=1
    ),
    "nothing hit": _nothing_hit,
    "no camera": lambda draw: (
        dict(_lifted(draw, 8, cameras=1))
        | {
            "logits": draw.normal(1, 0, 20, 4, 6),
            "rays_m": torch.zeros(1, 0, 4, 6, 3),
            "origins_m": torch.zeros(1, 0, 3),
        }
    ),
}


def _drawn(draw: Draw, points: int, *, turned: bool = True) -> Mapping[str, Any]:
    """A point behind every pixel's middle at most once a camera, and points out of view."""
    height, width = 16, 28
    column, row = draw.integers(-6, width + 6, points), draw.integers(-4, height + 4, points)
    depth = draw.uniform(points, low=2.0, high=40.0)
    # Recorded at twice the size: the camera looks along x.
    u, v = (column + 0.5) * 2, (row + 0.5) * 2
    xyz = torch.stack([depth, (width - u) * depth / 40, (height - v) * depth / 40], 1)
    cam2img = torch.tensor([[40.0, 0, width, 0], [0, 40, height, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    axes = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    lidar2img = (cam2img @ axes).expand(2, 4, 4).clone()
    lidar2img[1, 0] += 2 * lidar2img[1, 2]  # the second picture is shifted by one pixel
    augment = torch.eye(4)
    if turned:  # a quarter turn, twice the size, shifted: float32 holds all of it exactly
        augment = torch.tensor([[0.0, -2, 0, 1], [2, 0, 0, -3], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    moved = xyz @ augment[:3, :3].t() + augment[:3, 3]
    return {
        "points_lidar_m": torch.cat([moved, draw.normal(points, 2)], 1),
        "lidar2img": lidar2img,
        "img_aug_matrix": torch.diag(torch.tensor([0.5, 0.5, 1, 1])).expand(2, 4, 4).clone(),
        "lidar_aug_matrix": augment,
        "image_size": (height, width),
    }


_DRAWN: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
    "2000 points, many to a pixel": partial(_drawn, points=2000),
    "300 points, not augmented": partial(_drawn, points=300, turned=False),
    "one point": partial(_drawn, points=1),
    "no point": partial(_drawn, points=0),
}

CASES = (
    *(
        Case(
            "bev_pool",
            name,
            bev_pool,
            make,
            dtypes=WIDE,
            values=("features",),
            gradients=("features",),
        )
        for name, make in _POOLED.items()
    ),
    *(
        Case(
            "lift_splat",
            name,
            lift_splat,
            make,
            dtypes=WIDE,
            values=("logits",),
            gradients=("logits",),
        )
        for name, make in _LIFTED.items()
    ),
    *(Case("rasterize_depth", name, rasterize_depth, make) for name, make in _DRAWN.items()),
)
