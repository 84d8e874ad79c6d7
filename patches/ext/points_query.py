"""Names of ``mmcv._ext`` that search neighbours of points."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anybev.patches.ext._hits import first_hits
from anybev.patches.ext._table import supplies

# Squared distances held at once.
_PAIRS_AT_ONCE = 1 << 20
# Neighbouring centres for which the points in reach are picked out together.
_CENTRES_AT_ONCE = 64
# What mmcv fills the places with that no neighbour takes.
_KNN_FARTHEST = 1e10
_THREE_NN_FARTHEST = 1e40


def _coordinates(tensor: Tensor, b: int, n: int) -> Tensor:
    """(b, n, 3) coordinates, read from the front of a buffer as mmcv's kernels read it.

    mmdetection3d's DGCNN hands over features of 64 channels where (b, n, 3) is asked for. The
    kernels step by three numbers a point and b * n * 3 in all, whatever the shape says, so that
    its "neighbours in feature space" are those of such triples. Its checkpoints were trained with
    them.
    """
    return tensor.reshape(-1)[: b * n * 3].view(b, n, 3)


def _squared_distances(centres: Tensor, points: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of centres with their (rows, n) squared distances, summed as the kernels do.

    (x^2 + y^2) + z^2 of the differences, every step rounded to the dtype: no expanded form, whose
    cancellation would move points over a radius. (nvcc fuses the products into the sums, so
    compiled mmcv may differ by one rounding.)
    """
    axes = points.t().contiguous()
    rows = max(1, _PAIRS_AT_ONCE // max(1, points.shape[0]))
    for i in range(0, centres.shape[0], rows):
        block = slice(i, min(i + rows, centres.shape[0]))
        total = centres[block, 0, None] - axes[0]
        total *= total
        for axis in (1, 2):
            delta = centres[block, axis, None] - axes[axis]
            delta *= delta
            total += delta
        yield block, total


def _squared_radius(radius: float) -> float:
    """The kernels take a float32 radius and square it in float32."""
    return float(np.float32(radius) * np.float32(radius))


def _wide(distance: Tensor) -> Tensor:
    """A half is compared with a float32 radius as float32."""
    return distance if distance.dtype == torch.float64 else distance.float()


def _distances_in_reach(
    centres: Tensor, points: Tensor, radius: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of centres, points that may lie within a radius, and (rows, columns) distances.

    Centres are taken slice by slice along the axis on which they spread most. Every point that the
    rounded squared distances put within the radius of a centre is among the slice's: rounding keeps
    order, and the reach has room for that of a half.
    """
    if centres.shape[0] == 0:
        return
    reach = radius * 1.01 + 2 * torch.finfo(points.dtype).tiny ** 0.5
    known = centres.nan_to_num()
    axis = (known.amax(0) - known.amin(0)).argmax()[None]
    along, order = known.index_select(1, axis)[:, 0].sort()
    coordinate = points.index_select(1, axis)[:, 0]
    for rows, part in zip(
        order.split(_CENTRES_AT_ONCE), along.split(_CENTRES_AT_ONCE), strict=True
    ):
        near = (coordinate - part[0] >= -reach) & (coordinate - part[-1] <= reach)
        columns = near.nonzero()[:, 0]
        for block, distance in _squared_distances(centres[rows], points[columns]):
            yield rows[block], columns, distance


def _fill_first_hits(
    hit: Tensor, rows: Tensor, columns: Tensor, nsample: int, idx: Tensor
) -> Tensor:
    """Write the first hits of each row to ``idx`` (m, nsample); the first of all pads the rest.

    Returns:
        Rows without a hit, which are left as they were.
    """
    row, rank, column, count = first_hits(hit, nsample)
    row, column, first = rows[row], columns[column].to(idx.dtype), rank == 0
    idx[row[first]] = column[first, None]
    idx[row, rank] = column
    return rows[count == 0]


@supplies()
@torch.no_grad()
def ball_query_forward(
    new_xyz_tensor: Tensor,
    xyz_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    min_radius: float,
    max_radius: float,
    nsample: int,
) -> None:
    """First ``nsample`` points, in their order, in a shell around each centre.

    Upstream: mmcv ball_query_forward. A point counts when min_radius <= distance < max_radius, or
    when it lies exactly on the centre, whatever min_radius is. Fewer than nsample: the first one
    fills the rest. None at all: the row of ``idx_tensor`` stays as it was (zeros, from mmcv).

    Args:
        new_xyz_tensor: (b, m, 3) floating, centres in metres.
        xyz_tensor: (b, n, 3) floating, points in metres.
        idx_tensor: (b, m, nsample) int32, written.
        b: batch size.
        n: points.
        m: centres.
        nsample: indices a centre.
        min_radius: metres, taken as float32; this distance counts.
        max_radius: metres, taken as float32; this distance does not count.
    """
    low, high = _squared_radius(min_radius), _squared_radius(max_radius)
    centres, points = _coordinates(new_xyz_tensor, b, m), _coordinates(xyz_tensor, b, n)
    for i in range(b):
        for rows, columns, distance in _distances_in_reach(centres[i], points[i], max_radius):
            distance = _wide(distance)
            hit = distance < high
            if low > 0 or high == 0:
                hit &= distance >= low
                hit |= distance == 0
            _fill_first_hits(hit, rows, columns, nsample, idx_tensor[i])


@supplies()
@torch.no_grad()
def stack_ball_query_forward(
    new_xyz_tensor: Tensor,
    new_xyz_batch_cnt: Tensor,
    xyz_tensor: Tensor,
    xyz_batch_cnt: Tensor,
    idx_tensor: Tensor,
    max_radius: float,
    nsample: int,
) -> None:
    """First ``nsample`` points in a ball around each centre, samples stacked in one axis.

    Upstream: mmcv stack_ball_query_forward. A point counts when distance < max_radius: a radius of
    0 finds nothing, not even the centre, and there is no inner radius. Indices count within the
    sample. Fewer than nsample: the first one fills the rest. None at all: the row's first entry
    becomes -1, the others stay as they were.

    Args:
        new_xyz_tensor: (M1 + M2 + ..., 3) floating, centres in metres.
        new_xyz_batch_cnt: (b,) int32, M1, M2, ...
        xyz_tensor: (N1 + N2 + ..., 3) floating, points in metres.
        xyz_batch_cnt: (b,) int32, N1, N2, ...
        idx_tensor: (M1 + M2 + ..., nsample) int32, written.
        max_radius: metres; taken as float32.
        nsample: indices a centre.
    """
    high = _squared_radius(max_radius)
    centres = new_xyz_tensor.split(new_xyz_batch_cnt.tolist())
    points = xyz_tensor.split(xyz_batch_cnt.tolist())
    found = idx_tensor.split(new_xyz_batch_cnt.tolist())
    for i in range(len(centres)):
        for rows, columns, distance in _distances_in_reach(centres[i], points[i], max_radius):
            hit = _wide(distance) < high
            found[i][_fill_first_hits(hit, rows, columns, nsample, found[i]), 0] = -1


@supplies()
@torch.no_grad()
def knn_forward(
    xyz_tensor: Tensor,
    new_xyz_tensor: Tensor,
    idx_tensor: Tensor,
    dist2_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    nsample: int,
) -> None:
    """The ``nsample`` nearest points of each centre, nearest first.

    Upstream: mmcv knn_forward. Of equal distances the lower index comes first, and stays where not
    all fit; mmcv's order there is whatever its heap left. Places that no point within 1e5 m takes
    hold index 0 and squared distance 1e10.

    Args:
        xyz_tensor: (b, n, 3) floating, points in metres.
        new_xyz_tensor: (b, m, 3) floating, centres in metres.
        idx_tensor: (b, m, nsample) int32, written.
        dist2_tensor: (b, m, nsample) float32, squared metres, written.
        b: batch size.
        n: points.
        m: centres.
        nsample: indices a centre.
    """
    centres, points = _coordinates(new_xyz_tensor, b, m), _coordinates(xyz_tensor, b, n)
    order = torch.arange(n, device=points.device)
    # A float's bits order like the float where it is not negative: (distance, index) in one number.
    farthest = int(np.float32(_KNN_FARTHEST).view(np.int32)) << 32
    for i in range(b):
        for block, distance in _squared_distances(centres[i], points[i]):
            key = distance.float().view(torch.int32).long().bitwise_left_shift_(32).add_(order)
            key.masked_fill_(~(distance < _KNN_FARTHEST), farthest)
            if n < nsample:
                key = functional.pad(key, (0, nsample - n), value=farthest)
            key = key.topk(nsample, dim=1, largest=False).values
            idx_tensor[i, block] = (key & 0xFFFFFFFF).to(idx_tensor.dtype)
            bits = (key >> 32).to(torch.int32)
            dist2_tensor[i, block] = bits.view(torch.float32).to(dist2_tensor.dtype)


@supplies()
@torch.no_grad()
def three_nn_forward(
    unknown_tensor: Tensor,
    known_tensor: Tensor,
    dist2_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
) -> None:
    """The three nearest known points of each unknown one, nearest first.

    Upstream: mmcv three_nn_forward. Distances are squared (mmcv's Python wrapper takes the root).
    Of equal distances the lower index comes first. With fewer than three known points the rest
    holds index 0 and 1e40, which is infinite in float32.

    Args:
        unknown_tensor: (b, n, 3) floating, metres.
        known_tensor: (b, m, 3) floating, metres.
        dist2_tensor: (b, n, 3), dtype of the points, squared metres, written.
        idx_tensor: (b, n, 3) int32, written.
        b: batch size.
        n: unknown points.
        m: known points.
    """
    targets, points = _coordinates(unknown_tensor, b, n), _coordinates(known_tensor, b, m)
    farthest = _THREE_NN_FARTHEST if points.dtype == torch.float64 else float("inf")
    for i in range(b):
        for block, distance in _squared_distances(targets[i], points[i]):
            distance.masked_fill_(~(distance < farthest), farthest)
            if m < 3:
                distance = functional.pad(distance, (0, 3 - m), value=farthest)
            for k in range(3):
                nearest, index = distance.min(dim=1)
                dist2_tensor[i, block, k] = nearest
                idx_tensor[i, block, k] = index.masked_fill(nearest >= farthest, 0).int()
                distance.scatter_(1, index[:, None], farthest)
