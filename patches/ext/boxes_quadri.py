"""``mmcv._ext``: overlap and suppression of quadrilaterals."""

import torch
from torch import Tensor

from anybev.patches.ext._greedy import keep_greedily
from anybev.patches.ext._polygon import cross
from anybev.patches.ext._table import supplies

# mmcv's kernel calls edges parallel whose cross product, and quadrilaterals empty whose area, is
# less.
_NOTHING = 1e-14
# Pairs of which overlaps are worked out at once: some 24 points each.
_PAIRS_AT_ONCE = 1 << 15
# Pairs of which bounds are compared at once.
_TESTS_AT_ONCE = 1 << 21


def _area(corners: Tensor) -> Tensor:
    """Of the triangles ABC and ACD, whatever their orientation."""
    from_a = corners - corners[:, :1]
    halves = cross(from_a[:, 1], from_a[:, 2]).abs() + cross(from_a[:, 2], from_a[:, 3]).abs()
    return halves / 2


def _crossings(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 16, 2) where edges of ``a`` and ``b`` cross, and (P, 16) whether they do."""
    along_a, along_b = (q.roll(-1, 1) - q for q in (a, b))
    det = cross(along_b[:, None], along_a[:, :, None])
    parallel = det.abs() <= _NOTHING
    det = torch.where(parallel, 1, det)
    between = b[:, None] - a[:, :, None]
    on_a = cross(along_b[:, None], between) / det
    on_b = cross(along_a[:, :, None], between) / det
    crossing = ~parallel & (on_a >= 0) & (on_a <= 1) & (on_b >= 0) & (on_b <= 1)
    return (a[:, :, None] + along_a[:, :, None] * on_a[..., None]).flatten(1, 2), crossing.flatten(
        1
    )


def _counted_in(corners: Tensor, among: Tensor) -> Tensor:
    """(P, 4) bool: whose projections on AB and AD lie on them; right for rectangles."""
    side, up = among[:, 1] - among[:, 0], among[:, 3] - among[:, 0]
    from_a = corners - among[:, :1]
    inside = torch.ones(corners.shape[:2], dtype=torch.bool, device=corners.device)
    for axis in (side, up):
        reach = (from_a * axis[:, None]).sum(2)
        inside &= (reach >= 0) & (reach <= (axis * axis).sum(1, keepdim=True))
    return inside


def _hull_area(points: Tensor, valid: Tensor) -> Tensor:
    """(P,) area of the convex hull of the valid ones of points (P, K, 2), by gift wrapping.

    In double the side on which a float32 point lies is exact, so that the walk comes home.
    """
    slots = max(1, int(valid.sum(1).max()))
    first = torch.argsort(valid.int(), dim=1, descending=True, stable=True)[:, :slots]
    x, y = points.gather(1, first[..., None].expand(-1, -1, 2)).double().permute(2, 1, 0).unbind()
    x, y, counts = x.contiguous(), y.contiguous(), valid.gather(1, first).T.contiguous()
    height = y.masked_fill(~counts, torch.inf)
    low = x.masked_fill(height > height.amin(0), torch.inf).argmin(0, keepdim=True)
    start_x, start_y = x.gather(0, low)[0], y.gather(0, low)[0]
    at_x, at_y, area = start_x, start_y, torch.zeros_like(start_x)
    home = torch.zeros_like(counts[0])
    for _ in range(slots):
        to_x, to_y = _clockwise_most(x - at_x, y - at_y, counts, start_x - at_x, start_y - at_y)
        to_x, to_y = (torch.where(home, 0, to) for to in (to_x, to_y))
        area += (at_x - start_x) * to_y - (at_y - start_y) * to_x
        at_x, at_y = at_x + to_x, at_y + to_y
        home |= (at_x == start_x) & (at_y == start_y)
        if bool(home.all()):
            break
    return area / 2


def _clockwise_most(
    x: Tensor, y: Tensor, counts: Tensor, best_x: Tensor, best_y: Tensor
) -> tuple[Tensor, Tensor]:
    """(P,) each: of points (K, P) around 0 the one that no other lies to the right of.

    Of those in one direction the farthest; the search begins with ``best``.
    """
    distance = x * x + y * y
    reach = best_x * best_x + best_y * best_y
    for slot in range(x.shape[0]):
        turn = x[slot] * best_y - y[slot] * best_x
        # Where the best is no way off there is no direction yet: anything is better.
        better = (turn > 0) | ((turn == 0) & (distance[slot] > reach)) | (reach == 0)
        better &= counts[slot] & (distance[slot] > 0)
        best_x, best_y = torch.where(better, x[slot], best_x), torch.where(better, y[slot], best_y)
        reach = torch.where(better, distance[slot], reach)
    return best_x, best_y


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """(P,) area shared by quadrilaterals (P, 4, 2), pair by pair, as mmcv's kernel has it."""
    centre = torch.cat([a, b], 1).mean(1, keepdim=True)
    a, b = a - centre, b - centre
    crossings, crossing = _crossings(a, b)
    points = torch.cat([crossings, a, b], 1)
    valid = torch.cat([crossing, _counted_in(a, b), _counted_in(b, a)], 1)
    return torch.where(valid.sum(1) > 2, _hull_area(points, valid), 0).to(a.dtype)


def _overlap(a: Tensor, b: Tensor, near: Tensor, over_first: bool) -> Tensor:
    """Overlap of quadrilaterals (..., 4, 2) that broadcast, where ``near`` (...); 0 elsewhere."""
    overlap = a.new_zeros(near.shape)
    places = near.nonzero()
    for place in places.split(_PAIRS_AT_ONCE) if len(places) else ():
        at = tuple(place.T)
        first, second = a.expand(*near.shape, 4, 2)[at], b.expand(*near.shape, 4, 2)[at]
        shared, area, other = _shared(first, second), _area(first), _area(second)
        share = shared / (area if over_first else area + other - shared)
        overlap[at] = torch.where((area < _NOTHING) | (other < _NOTHING), 0, share)
    return overlap


def _near(a: Tensor, b: Tensor) -> Tensor:
    low_a, high_a, low_b, high_b = a.amin(-2), a.amax(-2), b.amin(-2), b.amax(-2)
    meet = (low_a <= high_b) & (low_b <= high_a)
    return meet[..., 0] & meet[..., 1]


def overlap_of_all(boxes1: Tensor, boxes2: Tensor, *, over_first: bool = False) -> Tensor:
    """(N, M) overlap of quadrilaterals (N, 8) with (M, 8); see :func:`box_iou_quadri`."""
    a, b = boxes1.reshape(-1, 1, 4, 2), boxes2.reshape(1, -1, 4, 2)
    rows = max(1, _TESTS_AT_ONCE // max(1, boxes2.shape[0]))
    found = [_overlap(some, b, _near(some, b), over_first) for some in a.split(rows)]
    return torch.cat(found)


def paired_overlap(boxes1: Tensor, boxes2: Tensor, *, over_first: bool = False) -> Tensor:
    """(P,) overlap of quadrilaterals (P, 8), row with row; see :func:`box_iou_quadri`."""
    a, b = boxes1.reshape(-1, 4, 2), boxes2.reshape(-1, 4, 2)
    return _overlap(a, b, _near(a, b), over_first)


def _raised(*boxes: Tensor) -> list[Tensor]:
    return [b[:, :8] if b.dtype == torch.float64 else b[:, :8].float() for b in boxes]


@supplies()
@torch.no_grad()
def box_iou_quadri(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Overlap of convex quadrilaterals, mmcv's ``box_iou_quadri``.

    Its kernel takes a corner for inside when its projections on the sides AB and AD lie on them,
    which holds for rectangles: where others overlap, the result is too large or too small. Kept,
    for thresholds were chosen with it.

    Args:
        boxes1: (N, 8) floating: x1, y1, ..., x4, y4 going round.
        boxes2: (M, 8); M = N where ``aligned``.
        ious: filled in place: N * M values in rows of M, of any shape; (N,) where ``aligned``.
        mode_flag: 0 intersection over union, 1 intersection over the area of ``boxes1``.
        aligned: pair row with row instead of all with all.
    """
    overlap = paired_overlap if aligned else overlap_of_all
    found = overlap(*_raised(boxes1, boxes2), over_first=mode_flag == 1)
    ious.copy_(found.reshape(ious.shape))


@supplies()
@torch.no_grad()
def nms_quadri(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Keep the best of each group of overlapping quadrilaterals, mmcv's ``nms_quadri``.

    Overlap as in :func:`box_iou_quadri`; threshold, order and labels as in
    :func:`~anybev.patches.ext.boxes_nms.nms_rotated`.

    Args:
        dets: (N, 8) floating: x1, y1, ..., x4, y4; a ninth column holds labels.
        scores: (N,) floating.
        order: (N,) int64; recomputed.
        dets_sorted: (N, 8) or (N, 9), ``dets`` in that order; not read.
        iou_threshold: greater than this suppresses.
        multi_label: whether there are labels; not read.

    Returns:
        (kept,) int64 indices by descending score.
    """
    rank = torch.argsort(scores, descending=True, stable=True)
    (ranked,) = _raised(dets[rank])
    kept = keep_greedily(
        rank.numel(), lambda i, j: overlap_of_all(ranked[i], ranked[j]) > iou_threshold, like=dets
    )
    return rank[kept]
