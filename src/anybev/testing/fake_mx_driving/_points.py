"""Voxels: packing, grouping, voxelisation and scatter, written from mx_driving's documentation.

A cell is packed as x << 19 | y << 8 | z, -1 for none. ``unique_voxel`` sorts packed cells as the
floats with their bits, which puts -1 first and in front of every offset.
"""

import torch
from torch import Tensor


def point_to_voxel(points: Tensor, sizes: list[float], bounds: list[float], layout: str) -> Tensor:
    """Packed cells of points, or, without sizes, of int32 cells."""
    cells = points[:, :3]
    inside = torch.ones(len(points), dtype=torch.bool)
    if sizes:
        low = torch.tensor(bounds[:3])
        # The kernel multiplies by the reciprocal.
        cells = torch.floor((cells - low) * (1 / torch.tensor(sizes)))
        grid = torch.round((torch.tensor(bounds[3:]) - low) / torch.tensor(sizes))
        inside = ((cells >= 0) & (cells < grid)).all(1)
    x, y, z = (cells if layout == "XYZ" else cells.flip(1)).int().unbind(1)
    return torch.where(inside, (x << 19) | (y << 8) | z, -1).int()


def voxel_to_point(voxels: Tensor, sizes: list[float], bounds: list[float], layout: str) -> Tensor:
    """Cells of packed cells."""
    cells = torch.stack([voxels >> 19, (voxels >> 8) & 0x7FF, voxels & 0xFF]).int().t()
    return cells if layout == "XYZ" else cells.flip(1)


def unique_voxel(voxels: Tensor) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    """Number of cells, cells, start of each among the sorted rows, sorted rows, first of each."""
    ordered, rows = torch.sort(voxels, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    start = (first & (ordered >= 0)).nonzero().squeeze(1)
    return len(start), ordered[start], start.int(), rows.int(), rows[start].int()


def hard_voxelize(
    points: Tensor,
    sizes: list[float],
    bounds: list[float],
    max_points: int,
    max_voxels: int,
    layout: str,
) -> tuple[int, Tensor, Tensor, Tensor]:
    """Voxels in the order in which their first points come."""
    members: dict[int, list[int]] = {}
    for row, cell in enumerate(point_to_voxel(points, sizes, bounds, layout).tolist()):
        if cell >= 0 and (cell in members or len(members) < max_voxels):
            members.setdefault(cell, []).append(row)
    kept = points.new_zeros((len(members), max_points, points.shape[1]))
    for voxel, rows in enumerate(members.values()):
        kept[voxel, : len(rows)] = points[rows[:max_points]]
    counts = [min(len(rows), max_points) for rows in members.values()]
    cells = torch.tensor(list(members), dtype=torch.int32)
    coords = voxel_to_point(cells, sizes, bounds, layout)
    return len(members), kept, coords, torch.tensor(counts, dtype=torch.int32)


def dynamic_voxelization(
    points: Tensor,
    coors: Tensor,
    gx: int,
    gy: int,
    gz: int,
    vx: float,
    vy: float,
    vz: float,
    x0: float,
    y0: float,
    z0: float,
) -> Tensor:
    """A transposed view of the (3, N) buffer: cell of each point, or -1 three times."""
    cells = torch.floor((points[:, :3] - torch.tensor([x0, y0, z0])) / torch.tensor([vx, vy, vz]))
    inside = ((cells >= 0) & (cells < torch.tensor([gx, gy, gz]))).all(1, keepdim=True)
    coors.copy_(torch.where(inside, cells, -1.0).int().t())
    return coors.t()


def npu_dynamic_scatter(
    features: Tensor, coors: Tensor, start: Tensor, order: Tensor, voxels: int, reduce: str
) -> tuple[Tensor, Tensor]:
    """Reduced rows, and which values were the maximum."""
    bounds = [*start.tolist(), len(order)]
    out, mask = features.new_zeros((voxels, features.shape[1])), torch.zeros_like(features)
    for voxel in range(voxels):
        rows = order[bounds[voxel] : bounds[voxel + 1]].long()
        values = features[rows]
        if reduce == "max":
            out[voxel] = values.amax(0)
            mask[rows] = (values == out[voxel]).float()
        else:
            out[voxel] = values.sum(0) if reduce == "sum" else values.mean(0)
    return out, mask.byte()
