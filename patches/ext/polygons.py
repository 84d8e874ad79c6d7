"""``mmcv._ext``: convex hulls of nine points against quadrilaterals."""

import torch
from torch import Tensor

from anybev.patches.ext._polygon import area_of, hull, quads, shared_area
from anybev.patches.ext._table import supplies

# Pairs of point and polygon, and of hull and polygon, that are worked out at once.
_TESTS_AT_ONCE = 1 << 20
_HULLS_AT_ONCE = 1 << 10
_PAIRS_AT_ONCE = 1 << 13


@supplies()
@torch.no_grad()
def points_in_polygons_forward(points: Tensor, polygons: Tensor, output: Tensor) -> None:
    """Which points lie in which quadrilaterals, mmcv's ``points_in_polygons``.

    Edges that a ray towards +x crosses are counted. As in mmcv's kernel the count stops at an
    edge that the point lies on, so that a point of the boundary may come out either way.

    Args:
        points: (P, 2) floating.
        polygons: (G, 8) floating: x1, y1, ..., x4, y4 going round.
        output: (P, G) floating, filled in place with 1 inside and 0 outside.
    """
    corners = polygons.reshape(-1, 4, 2)
    rows = max(1, _TESTS_AT_ONCE // max(1, polygons.shape[0]))
    for some, inside in zip(points.split(rows), output.split(rows), strict=True):
        x, y = some[:, :1], some[:, 1:]
        odd = torch.zeros(inside.shape, dtype=torch.bool, device=inside.device)
        stopped = odd.clone()
        for corner in range(4):
            (start_x, start_y), (end_x, end_y) = corners[:, corner].T, corners[:, corner - 1].T
            level = (y >= torch.minimum(start_y, end_y)) & (y <= torch.maximum(start_y, end_y))
            at_corner = ((x == start_x) & (y == start_y)) | ((x == end_x) & (y == end_y))
            crossed = (start_y < y) != (end_y < y)
            rise = torch.where(crossed, end_y - start_y, 1)
            meets = start_x + (y - start_y) * (end_x - start_x) / rise
            stopped |= level & (at_corner | (crossed & (meets == x)))
            odd ^= level & ~stopped & crossed & (meets > x)
        inside.copy_(odd)


@supplies()
@torch.no_grad()
def convex_iou(pointsets: Tensor, polygons: Tensor, ious: Tensor) -> None:
    """IoU of the convex hulls of point sets with quadrilaterals, mmcv's ``convex_iou``.

    Args:
        pointsets: (N, 18) floating: x1, y1, ..., x9, y9.
        polygons: (K, 8) floating: x1, y1, ..., x4, y4 going round a convex quadrilateral.
        ious: (N, K), filled in place.
    """
    gt = quads(polygons)
    rows = max(1, min(_HULLS_AT_ONCE, _PAIRS_AT_ONCE // max(1, gt.shape[0])))
    for some, result in zip(pointsets.split(rows), ious.split(rows), strict=True):
        points = some.double().reshape(-1, 9, 2)
        around = hull(points)
        shared = shared_area(points[:, None], around[:, None], gt[None])
        union = area_of(points, around)[:, None] + area_of(gt)[None] - shared
        result.copy_(shared / union)


@supplies()
def convex_giou(pointsets: Tensor, polygons: Tensor, output: Tensor) -> None:
    """Generalised IoU of hulls of point sets, row with row, mmcv's ``convex_giou``.

    Args:
        pointsets: (N, 18) floating: x1, y1, ..., x9, y9.
        polygons: (N, 8) floating: x1, y1, ..., x4, y4 going round a convex quadrilateral.
        output: (N, 19), filled in place: the gradient for the points, of which those inside the
            hull have none, and the generalised IoU last.
    """
    chunks = (values.split(_HULLS_AT_ONCE) for values in (pointsets, polygons, output))
    for some, gt, result in zip(*chunks, strict=True):
        with torch.enable_grad():
            points = some.detach().double().reshape(-1, 9, 2).requires_grad_()
            giou = _giou(points, quads(gt.detach()))
            (grad,) = torch.autograd.grad(giou.sum(), points)
        with torch.no_grad():
            result.copy_(torch.cat([grad.flatten(1), giou[:, None]], 1))


def _giou(points: Tensor, gt: Tensor) -> Tensor:
    """(N,) of points (N, 9, 2) with (N, 4, 2); differentiable for the points."""
    around = hull(points.detach())
    shared = shared_area(points, around, gt)
    union = area_of(points, around) + area_of(gt) - shared
    both = torch.cat([points, gt], 1)
    enclosing = area_of(both, hull(both.detach()))
    return shared / union - (enclosing - union) / enclosing


@supplies()
@torch.no_grad()
def min_area_polygons(pointsets: Tensor, polygons: Tensor) -> None:
    """Smallest rectangle around each point set, of any orientation, mmcv's ``min_area_polygons``.

    Of equally small ones that along the first edge of the hull is taken, counter-clockwise from
    the lowest point.

    Args:
        pointsets: (N, 18) floating: x1, y1, ..., x9, y9.
        polygons: (N, 8), filled in place. With the axes turned onto the rectangle, by less than a
            right angle: the corners (greatest x, least y), (least, least), (least, greatest),
            (greatest, greatest).
    """
    for some, result in zip(
        pointsets.split(_HULLS_AT_ONCE), polygons.split(_HULLS_AT_ONCE), strict=True
    ):
        points = some.double().reshape(-1, 9, 2)
        after = hull(points)
        is_edge = after >= 0
        along = points.gather(1, after.clamp(min=0)[..., None].expand(-1, -1, 2)) - points
        direction = torch.atan2(along[..., 1], along[..., 0]).remainder(2 * torch.pi)
        direction = torch.where(is_edge, direction, 0)
        angle = direction.remainder(torch.pi / 2)
        x_axis = torch.stack([angle.cos(), angle.sin()], 2)
        y_axis = torch.stack([-angle.sin(), angle.cos()], 2)
        x, y = (points @ axis.mT for axis in (x_axis, y_axis))  # (N, points, edges)
        area = (x.amax(1) - x.amin(1)) * (y.amax(1) - y.amin(1))
        area = area.masked_fill(~is_edge & is_edge.any(1, keepdim=True), torch.inf)
        smallest = area <= area.amin(1, keepdim=True) * (1 + 1e-6)
        best = direction.masked_fill(~smallest, torch.inf).argmin(1)[:, None]
        low_x, high_x, low_y, high_y = (
            reach.gather(1, best) for reach in (x.amin(1), x.amax(1), y.amin(1), y.amax(1))
        )
        at = best[..., None].expand(-1, -1, 2)
        x_axis, y_axis = x_axis.gather(1, at), y_axis.gather(1, at)
        to_x = torch.cat([high_x, low_x, low_x, high_x], 1)[..., None]
        to_y = torch.cat([low_y, low_y, high_y, high_y], 1)[..., None]
        result.copy_((to_x * x_axis + to_y * y_axis).flatten(1))
