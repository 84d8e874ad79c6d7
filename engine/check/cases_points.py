"""Inputs of the operators on points: voxels, features of voxels, points in boxes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anybev.device.ops.points_in_boxes import points_in_boxes
from anybev.device.ops.scatter_points import scatter_points
from anybev.device.ops.voxelize_dynamic import voxelize_dynamic
from anybev.device.ops.voxelize_hard import voxelize_hard, voxelize_hard_points
from anybev.engine.check.case import WIDE, Case, Draw

# Sizes that float32 holds exactly: a device that multiplies by 1 / size finds the same cells.
_SIZE = (0.5, 0.25, 1.0)
_RANGE = (-8.0, -4.0, -4.0, 8.0, 4.0, 4.0)
_GRID = (32, 32, 8)
# No point of a random input is nearer to a face than this: a face is a case of its own.
_MARGIN_M = 1e-3


def _points(draw: Draw, count: int, features: int = 5, outside: bool = True) -> Tensor:
    """(count, features) points inside of cells, some of them beside the range."""
    grid = torch.tensor(_GRID)
    reach = 4 if outside else 0
    columns = [draw.integers(-reach, n + reach, count) for n in _GRID]
    cell = torch.stack(columns, 1) if count else grid.new_zeros((0, 3))
    within = draw.uniform(count, 3, low=0.1, high=0.9)
    xyz = (cell + within) * torch.tensor(_SIZE) + torch.tensor(_RANGE[:3])
    return torch.cat([xyz, draw.normal(count, features - 3)], 1)


def _faces(draw: Draw) -> Tensor:
    """Points on the faces of the range and of cells, and points that are not finite."""
    low, high, size = torch.tensor(_RANGE[:3]), torch.tensor(_RANGE[3:]), torch.tensor(_SIZE)
    odd = [[torch.nan, 0, 0], [0, torch.inf, 0], [0, 0, -torch.inf]]
    xyz = torch.stack([low, high, high - size, low + size, low - size, (low + high) / 2])
    xyz = torch.cat([xyz, torch.tensor(odd)])
    return torch.cat([xyz, draw.normal(len(xyz), 2)], 1)


def _crowd(draw: Draw) -> Tensor:
    """Many points in few cells."""
    points = _points(draw, 900, outside=False)
    points[:, :3] = points[draw.integers(0, 7, 900), :3]
    return points


_CLOUDS: dict[str, Callable[[Draw], Tensor]] = {
    "3000 points": lambda draw: _points(draw, 3000),
    "900 points in 7 cells": _crowd,
    "on faces, not finite": _faces,
    "3 columns": lambda draw: _points(draw, 200, features=3),
    "all outside": lambda draw: _points(draw, 40) + 100,
    "one point": lambda draw: _points(draw, 1, outside=False),
    "no point": lambda draw: _points(draw, 0),
}


def _cloud(
    draw: Draw, cloud: Callable[[Draw], Tensor], setting: Mapping[str, Any]
) -> Mapping[str, Any]:
    return {"points_lidar_m": cloud(draw), **setting}


def _voxel_cases() -> list[Case]:
    grid = {"voxel_size": _SIZE, "point_cloud_range": _RANGE}
    # 120 voxels are fewer than the large cloud fills: the cap is part of the contract.
    capped = {**grid, "max_points": 10, "max_voxels": 120}
    cases = []
    for name, cloud in _CLOUDS.items():
        hard = partial(_cloud, cloud=cloud, setting=capped)
        cases += [
            Case(
                "voxelize_dynamic",
                name,
                voxelize_dynamic,
                partial(_cloud, cloud=cloud, setting=grid),
            ),
            Case("voxelize_hard", name, voxelize_hard, hard),
            Case("voxelize_hard", f"{name}, kept", voxelize_hard_points, hard),
        ]
    return cases


def _scattered(
    draw: Draw, points: int, channels: int, columns: int = 3, dtype: torch.dtype = torch.int32
) -> Mapping[str, Any]:
    coords = torch.stack([draw.integers(-1, 9, points) for _ in range(columns)], 1)
    return {"features": draw.normal(points, channels), "coords": coords.to(dtype)}


def _scatter_cases() -> list[Case]:
    inputs: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
        "500 points x 8": lambda draw: _scattered(draw, 500, 8),
        "500 points x 5, 4 columns, int64": lambda draw: _scattered(draw, 500, 5, 4, torch.int64),
        "one point x 1": lambda draw: {
            "features": draw.normal(1, 1),
            "coords": torch.tensor([[3, 0, 2]], dtype=torch.int32),
        },
        "no point": lambda draw: _scattered(draw, 0, 8),
        "no voxel": lambda draw: {
            "features": draw.normal(6, 8),
            "coords": torch.full((6, 3), -1, dtype=torch.int32),
        },
        "cells far apart": lambda draw: {
            "features": draw.normal(300, 16),
            "coords": torch.stack([draw.integers(0, 3000, 300) for _ in range(3)], 1).int(),
        },
    }
    return [
        Case(
            "scatter_points",
            f"{reduce}, {name}",
            partial(scatter_points, reduce=reduce),
            make,
            dtypes=WIDE,
            values=("features",),
            gradients=("features",),
        )
        for reduce in ("sum", "mean", "max")
        for name, make in inputs.items()
    ]


def _boxes(draw: Draw, count: int) -> Tensor:
    centre = draw.uniform(count, 3, low=-10, high=10)
    size, yaw = draw.uniform(count, 3, low=0.5, high=6), draw.uniform(count, 1, low=-3, high=3)
    return torch.cat([centre, size, yaw], 1)


def _clear_of_faces(points: Tensor, boxes: Tensor) -> Tensor:
    """The points that are not within ``_MARGIN_M`` of any plane through a box's face."""
    cos, sin = torch.cos(boxes[:, 6].double()), torch.sin(boxes[:, 6].double())
    dx, dy, up = ((points[:, None, i] - boxes[None, :, i]).double() for i in range(3))
    along, across = (dx * cos + dy * sin).abs(), (dy * cos - dx * sin).abs()
    gaps = (along - boxes[:, 3] / 2, across - boxes[:, 4] / 2, up, up - boxes[:, 5])
    clear = torch.stack([gap.abs() > _MARGIN_M for gap in gaps]).all(0).all(1)
    return points[clear]


def _in_boxes(points: int, boxes: int, draw: Draw, half: bool = False) -> Mapping[str, Any]:
    drawn = _boxes(draw, boxes), draw.uniform(points, 4, low=-10, high=10)
    made, cloud = (value.half().float() if half else value for value in drawn)
    return {"points_lidar_m": _clear_of_faces(cloud, made), "boxes_lidar": made}


def _on_faces(_: Draw) -> Mapping[str, Any]:
    """Corners, faces and centre of one box that is not turned, and a box without a volume."""
    x, y, z = torch.tensor([0.0, 1, 2]), torch.tensor([-1.0, 0, 1]), torch.tensor([1.0, 1.5, 2])
    box = torch.tensor([[1.0, 0, 1, 2, 2, 1, 0], [1.0, 0, 1, -2, 2, 1, 0]])
    return {"points_lidar_m": torch.cartesian_prod(x, y, z), "boxes_lidar": box}


_IN_BOXES: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
    "2000 points, 12 boxes": partial(_in_boxes, 2000, 12),
    "300 points, 200 boxes": partial(_in_boxes, 300, 200),
    "300 points, 201 boxes": partial(_in_boxes, 300, 201),
    "on faces": _on_faces,
    "one point, one box": partial(_in_boxes, 1, 1),
    "no point": partial(_in_boxes, 0, 3),
    "no box": partial(_in_boxes, 5, 0),
}

CASES = (
    *_voxel_cases(),
    *_scatter_cases(),
    *(Case("points_in_boxes", name, points_in_boxes, make) for name, make in _IN_BOXES.items()),
    Case(
        "points_in_boxes",
        "400 points, 9 boxes",
        points_in_boxes,
        partial(_in_boxes, 400, 9, half=True),
        dtypes=(torch.float16,),
        values=("points_lidar_m", "boxes_lidar"),
    ),
)
