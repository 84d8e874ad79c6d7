"""Areas of convex polygons and what they share, in double, with gradients.

A polygon is a set of points with the number of the next corner, counter-clockwise, for each. On
which side of a line through two float32 points a third lies comes out exactly in double, so edges
that coincide are told from edges that cross.
"""

import torch
from torch import Tensor


def cross(a: Tensor, b: Tensor) -> Tensor:
    """(...) of vectors (..., 2): positive where ``b`` is to the left of ``a``."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def quads(boxes: Tensor) -> Tensor:
    """(N, 4, 2) double corners of quadrilaterals (N, 8), turned counter-clockwise."""
    corners = boxes.double().reshape(-1, 4, 2)
    clockwise = area_of(corners, signed=True) < 0
    return torch.where(clockwise[:, None, None], corners.flip(1), corners)


def hull(points: Tensor) -> Tensor:
    """Convex hulls of small point sets.

    Args:
        points: (N, K, 2) double.

    Returns:
        (N, K) int64: the next corner of the hull, counter-clockwise, where the point is one; else
        -1. Of points that coincide the first counts, of those in a row the outer two.
    """
    away = points[:, None] - points[:, :, None]  # (N, from, to, 2)
    side = cross(away[:, :, :, None], away[:, :, None])  # (N, from, to, other)
    reach = (away[:, :, :, None] * away[:, :, None]).sum(4)
    length = away.square().sum(3)
    beyond = (side == 0) & ((reach < 0) | (reach > length[..., None]))
    edge = ~((side < 0) | beyond).any(3) & (length > 0)
    first = ~(length == 0).tril(-1).any(2)
    edge &= first[:, None] & first[:, :, None]
    return torch.where(edge.any(2), edge.int().argmax(2), -1)


def _next(points: Tensor, after: Tensor | None) -> Tensor:
    if after is None:
        return points.roll(-1, -2)
    return points.gather(-2, after.clamp(min=0)[..., None].expand(points.shape))


def area_of(points: Tensor, after: Tensor | None = None, *, signed: bool = False) -> Tensor:
    """(...) area of polygons (..., K, 2); without ``after`` the points go round in their order."""
    from_first = points - points[..., :1, :]
    swept = cross(from_first, _next(from_first, after))
    if after is not None:
        swept = torch.where(after >= 0, swept, 0)
    area = swept.sum(-1) / 2
    return area if signed else area.abs()


def shared_area(points: Tensor, after: Tensor, corners: Tensor) -> Tensor:
    """Area of the intersection of convex polygons.

    By Green's theorem: each edge, cut to the part inside the other polygon, sweeps over its share.

    Args:
        points: (..., K, 2) double.
        after: (..., K), from :func:`hull`.
        corners: (..., 4, 2) double, counter-clockwise, of a shape that broadcasts.

    Returns:
        (...), the leading dimensions broadcast.
    """
    origin = corners[..., :1, :]
    ends, is_edge = _next(points, after), after >= 0
    # An edge that both polygons have counts as one of the first.
    ours = _inside(points, ends, corners, corners.roll(-1, -2), None, shared_edges=True)
    theirs = _inside(corners, corners.roll(-1, -2), points, ends, is_edge, shared_edges=False)
    swept = torch.where(is_edge, ours * cross(points - origin, ends - origin), 0).sum(-1)
    swept = swept + (theirs * cross(corners - origin, corners.roll(-1, -2) - origin)).sum(-1)
    return (swept / 2).clamp(min=0)


def _inside(
    start: Tensor,
    end: Tensor,
    line_start: Tensor,
    line_end: Tensor,
    is_line: Tensor | None,
    *,
    shared_edges: bool,
) -> Tensor:
    """(..., E) part of each edge that lies to the left of all lines, 0 to 1."""
    start, end = start[..., None, :], end[..., None, :]
    line_start, line = line_start[..., None, :, :], (line_end - line_start)[..., None, :, :]
    before, after = cross(line, start - line_start), cross(line, end - line_start)
    if is_line is not None:
        before, after = (torch.where(is_line[..., None, :], d, 1) for d in (before, after))
    enters, leaves = (before < 0) & (after > 0), (before > 0) & (after < 0)
    fall = torch.where(enters | leaves, before - after, 1)
    cut = before / fall
    low = torch.where(enters, cut, 0).amax(-1)
    high = torch.where(leaves, cut, 1).amin(-1)
    on_line = (before == 0) & (after == 0)
    outside = (before <= 0) & (after <= 0) & ~on_line
    if shared_edges:
        outside |= on_line & (((end - start) * line).sum(-1) <= 0)
    else:
        outside |= on_line
    # Without a gradient where nothing is left: a clamp would pass one on from an edge that only
    # touches.
    return torch.where(outside.any(-1) | (high <= low), 0, high - low)
