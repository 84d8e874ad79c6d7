"""Names of ``mmcv._ext`` that pool the points inside boxes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from anybev.patches.ext._hits import first_hits, rank_in_group
from anybev.patches.ext._table import supplies

# Tests of a point against a box, and elements of a pooled block, held at once.
_AT_ONCE = 1 << 20


def _local(boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points in the frames of boxes, as mmcv's RoI kernels see them.

    Unlike ``anybev.device.ops.points_in_boxes``, a point on one of the four side faces is outside
    here; one on the bottom or the top is inside.

    Args:
        boxes: (M, 7) x, y, z_bottom, dx, dy, dz in metres, yaw in radians about z.
        points: (N, 3) metres.

    Returns:
        (M, N) along the box's x, across it, in metres from its centre; and (M, N) bool, inside.
    """
    yaw_rad = boxes[:, 6].double()
    cos, sin = yaw_rad.cos().to(boxes.dtype)[:, None], yaw_rad.sin().to(boxes.dtype)[:, None]
    dx, dy = (points[:, axis] - boxes[:, axis, None] for axis in range(2))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    half_x, half_y, half_z = (boxes[:, axis, None] / 2 for axis in (3, 4, 5))
    up = points[:, 2] - (boxes[:, 2, None] + half_z)
    # As mmcv writes it: "not above" lets a NaN height pass, the strict tests let no NaN pass.
    inside = ~(up.abs() > half_z)
    inside &= (along > -half_x) & (along < half_x) & (across > -half_y) & (across < half_y)
    return along, across, inside


def _cell(offset: Tensor, size: Tensor, count: int) -> Tensor:
    """Index of the cell that an offset from the lower face falls in, of ``count`` over ``size``."""
    cell = (offset / (size / count)).nan_to_num_(nan=0.0)
    return cell.clamp_(0, count - 1).long()


def _points_of_cells(
    rois: Tensor, pts: Tensor, out_size: tuple[int, int, int], most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first ``most`` points of each cell of each box, cell by cell, points ascending.

    Returns:
        cell, rank within it and point, each (P,) int64; and points a cell, (R * X * Y * Z,).
    """
    x, y, z = out_size
    along, across, inside = _local(rois, pts)
    box, point = inside.nonzero(as_tuple=True)
    size = rois[box, 3:6]
    cell = (box * x + _cell(along[box, point] + size[:, 0] / 2, size[:, 0], x)) * y
    cell = (cell + _cell(across[box, point] + size[:, 1] / 2, size[:, 1], y)) * z
    cell += _cell(pts[point, 2] - rois[box, 2], size[:, 2], z)
    cell, order = cell.sort(stable=True)
    count = torch.bincount(cell, minlength=rois.shape[0] * x * y * z)
    rank = rank_in_group(cell, count)
    kept = rank < most
    return cell[kept], rank[kept], point[order][kept], count.clamp_(max=most)


def _max_pool(
    features: Tensor, cell: Tensor, point: Tensor, pooled: Tensor, argmax: Tensor
) -> None:
    """Largest feature of each cell, channel by channel, and the first point that has it."""
    values = features[point].nan_to_num(
        nan=float("-inf"), posinf=float("inf"), neginf=float("-inf")
    )
    index = cell[:, None].expand_as(values)
    largest = torch.full_like(pooled, float("-inf")).scatter_reduce_(0, index, values, "amax")
    # What mmcv starts from is the lowest float: minus infinity never wins.
    wins = (values == largest[cell]) & (values > float("-inf"))
    nobody = features.shape[0]
    candidates = torch.where(wins, point[:, None], nobody)
    first = torch.full(pooled.shape, nobody, dtype=torch.long, device=pooled.device)
    first.scatter_reduce_(0, index, candidates, "amin")
    found = first < nobody
    pooled.copy_(torch.where(found, largest, pooled))
    argmax.copy_(torch.where(found, first, -1))


def _avg_pool(features: Tensor, cell: Tensor, point: Tensor, count: Tensor, pooled: Tensor) -> None:
    """Mean feature of each cell that has points; a half is summed in float32."""
    dtype = features.dtype if features.dtype == torch.float64 else torch.float32
    total = torch.zeros(pooled.shape, dtype=dtype, device=pooled.device)
    total.index_add_(0, cell, features[point].to(dtype))
    mean = (total / count[:, None]).to(pooled.dtype)
    pooled.copy_(torch.where(count[:, None] > 0, mean, pooled))


def _blocks(boxes: int, per_box: int) -> Iterator[slice]:
    rows = max(1, _AT_ONCE // max(1, per_box))
    for i in range(0, boxes, rows):
        yield slice(i, min(i + rows, boxes))


@supplies()
@torch.no_grad()
def roiaware_pool3d_forward(
    rois: Tensor,
    pts: Tensor,
    pts_feature: Tensor,
    argmax: Tensor,
    pts_idx_of_voxels: Tensor,
    pooled_features: Tensor,
    pool_method: int,
) -> None:
    """Pool the points of each cell of a grid laid into each box.

    Upstream: mmcv roiaware_pool3d_forward. The cells divide the box in its own frame, x along its
    length. A cell keeps its first K - 1 points. Where a cell has none (or, for max, none above
    minus infinity) ``pooled_features`` stays as it was, and argmax is -1. mmcv holds maximum and
    sum in float32 also for float64 features; here they stay float64.

    Args:
        rois: (R, 7) floating: x, y, z_bottom, dx, dy, dz in metres, yaw in radians about z.
        pts: (N, 3) floating, metres, same frame.
        pts_feature: (N, C) floating.
        argmax: (R, X, Y, Z, C) int32, point of each maximum, written; untouched by the average.
        pts_idx_of_voxels: (R, X, Y, Z, K) int32, zeros; written: number of points of the cell, then
            the points in ascending order.
        pooled_features: (R, X, Y, Z, C), written.
        pool_method: 0 max, 1 average.
    """
    x, y, z, slots = pts_idx_of_voxels.shape[1:]
    cells, channels = x * y * z, pts_feature.shape[1]
    for block in _blocks(rois.shape[0], max(pts.shape[0], cells * channels)):
        cell, rank, point, count = _points_of_cells(rois[block], pts, (x, y, z), slots - 1)
        idx = pts_idx_of_voxels[block].view(-1, slots)
        idx[:, 0] = count.to(idx.dtype)
        idx[cell, rank + 1] = point.to(idx.dtype)
        pooled = pooled_features[block].view(-1, channels)
        if pool_method == 0:
            _max_pool(pts_feature, cell, point, pooled, argmax[block].view(-1, channels))
        elif pool_method == 1:
            _avg_pool(pts_feature, cell, point, count, pooled)


@supplies()
@torch.no_grad()
def roiaware_pool3d_backward(
    pts_idx_of_voxels: Tensor, argmax: Tensor, grad_out: Tensor, grad_in: Tensor, pool_method: int
) -> None:
    """Gradient of ``roiaware_pool3d_forward`` to the features.

    Upstream: mmcv roiaware_pool3d_backward. Max gives each cell's gradient to its argmax, average
    gives every kept point 1 / (points of the cell) of it.

    Args:
        pts_idx_of_voxels: (R, X, Y, Z, K) int32, as forward filled it.
        argmax: (R, X, Y, Z, C) int32, as forward filled it; read for max only.
        grad_out: (R, X, Y, Z, C) floating.
        grad_in: (N, C), added to.
        pool_method: 0 max, 1 average.
    """
    slots, channels = pts_idx_of_voxels.shape[-1], grad_out.shape[-1]
    if grad_in.numel() == 0:
        return
    cells = pts_idx_of_voxels[0].numel() // slots if pts_idx_of_voxels.numel() else 0
    for block in _blocks(grad_out.shape[0], cells * max(slots, channels)):
        grad = grad_out[block].reshape(-1, channels)
        if pool_method == 0:
            point = argmax[block].reshape(-1, channels).long()
            grad_in.scatter_add_(0, point.clamp(min=0), torch.where(point >= 0, grad, 0))
        elif pool_method == 1:
            idx = pts_idx_of_voxels[block].reshape(-1, slots)
            slot = torch.arange(1, slots, device=idx.device)
            cell, rank = (slot <= idx[:, :1]).nonzero(as_tuple=True)
            share = grad / idx[:, :1].clamp(min=1)
            grad_in.index_add_(0, idx[cell, rank + 1].long(), share[cell].to(grad_in.dtype))


@supplies()
@torch.no_grad()
def roipoint_pool3d_forward(
    xyz: Tensor,
    boxes3d: Tensor,
    pts_feature: Tensor,
    pooled_features: Tensor,
    pooled_empty_flag: Tensor,
) -> None:
    """Sample points, with their features, inside each box.

    Upstream: mmcv roipoint_pool3d_forward. The first S points of a box, in their order; where there
    are fewer, they repeat from the first. A box without points leaves ``pooled_features`` as it was
    and sets its flag; no other flag is written.

    Args:
        xyz: (B, N, 3) floating, metres.
        boxes3d: (B, M, 7) floating: x, y, z_bottom, dx, dy, dz in metres, yaw in radians about z.
        pts_feature: (B, N, C) floating.
        pooled_features: (B, M, S, 3 + C), written: coordinates, then features.
        pooled_empty_flag: (B, M) int32, 1 for a box without points.
    """
    slots = pooled_features.shape[2]
    slot = torch.arange(slots, device=xyz.device)
    for i in range(xyz.shape[0]):
        for block in _blocks(boxes3d.shape[1], max(xyz.shape[1], slots * pooled_features.shape[3])):
            inside = _local(boxes3d[i, block], xyz[i])[2]
            row, rank, column, count = first_hits(inside, slots)
            idx = torch.zeros((inside.shape[0], slots), dtype=torch.long, device=xyz.device)
            idx[row, rank] = column
            idx = idx.gather(1, slot % count.clamp(1, slots)[:, None])
            hit = count > 0
            sampled = idx[hit]
            pooled_features[i, block][hit] = torch.cat(
                (xyz[i][sampled], pts_feature[i][sampled]), 2
            )
            pooled_empty_flag[i, block].masked_fill_(~hit, 1)
