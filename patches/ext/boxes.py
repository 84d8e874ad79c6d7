"""``mmcv._ext``: boxes along the axes, and distances of point sets in the plane."""

import torch
from torch import Tensor

from anybev.patches.ext._table import supplies

# Pairs of boxes or points of which values are held at once.
_PAIRS_AT_ONCE = 1 << 20


def horizontal_iou(
    boxes_a: Tensor, boxes_b: Tensor, offset: int, *, over_a: bool = False
) -> Tensor:
    """Shared area over the union, or over the area of ``boxes_a``; 0 / 0 is NaN.

    Args:
        boxes_a: (..., 4) floating: x1, y1, x2, y2.
        boxes_b: (..., 4), of a shape that broadcasts with it.
        offset: 0, or 1 where a box ends with the pixel (x2, y2), which adds 1 to its sizes.
        over_a: divide by the area of ``boxes_a``.

    Returns:
        The leading dimensions, broadcast.
    """
    left_a, top_a, right_a, bottom_a = boxes_a.unbind(-1)
    left_b, top_b, right_b, bottom_b = boxes_b.unbind(-1)
    width = torch.minimum(right_a, right_b) - torch.maximum(left_a, left_b) + offset
    height = torch.minimum(bottom_a, bottom_b) - torch.maximum(top_a, top_b) + offset
    shared = width.clamp_(min=0) * height.clamp_(min=0)
    area = (right_a - left_a + offset) * (bottom_a - top_a + offset)
    if over_a:
        return shared / area
    return shared / (area + (right_b - left_b + offset) * (bottom_b - top_b + offset) - shared)


@supplies()
@torch.no_grad()
def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Overlap of boxes along the axes, mmcv's ``bbox_overlaps``.

    Two boxes without an area give NaN, as on mmcv's CPU. No gradient.

    Args:
        bboxes1: (N, 4) floating: x1, y1, x2, y2.
        bboxes2: (M, 4); M = N where ``aligned``.
        ious: (N, M), or (N,) where ``aligned``; filled in place.
        mode: 0 intersection over union, 1 intersection over the area of ``bboxes1``.
        aligned: pair row with row instead of all with all.
        offset: 0, or 1 where a box ends with the pixel (x2, y2), which adds 1 to its sizes.
    """
    over_a = mode == 1
    if aligned:
        ious.copy_(horizontal_iou(bboxes1, bboxes2, offset, over_a=over_a))
        return
    rows = max(1, _PAIRS_AT_ONCE // max(1, bboxes2.shape[0]))
    for some, result in zip(bboxes1.split(rows), ious.split(rows), strict=True):
        result.copy_(horizontal_iou(some[:, None], bboxes2[None], offset, over_a=over_a))


def _nearest(points: Tensor, others: Tensor, distance: Tensor, index: Tensor) -> None:
    """Fill the squared distance (B, N) from ``points`` to the nearest of ``others``, and which."""
    if others.shape[1] == 0:
        return
    rows = max(1, _PAIRS_AT_ONCE // (max(1, points.shape[0]) * others.shape[1]))
    x, y, other_x, other_y = *points.unbind(2), *others[:, None].unbind(3)
    for start in range(0, points.shape[1], rows):
        some = slice(start, start + rows)
        away = (x[:, some, None] - other_x).square_()
        away += (y[:, some, None] - other_y).square_()
        least = away.min(2)
        distance[:, some] = least.values.to(distance.dtype)
        index[:, some] = least.indices.to(index.dtype)


@supplies()
@torch.no_grad()
def chamfer_distance_forward(
    xyz1: Tensor, xyz2: Tensor, dist1: Tensor, dist2: Tensor, idx1: Tensor, idx2: Tensor
) -> None:
    """Nearest neighbours both ways between point sets, mmcv's ``chamfer_distance``.

    Of equally near points the lowest index is taken.

    Args:
        xyz1: (B, N, 2) floating.
        xyz2: (B, M, 2).
        dist1: (B, N), filled in place: squared distance to the nearest point of ``xyz2``.
        dist2: (B, M), filled in place: squared distance to the nearest point of ``xyz1``.
        idx1: (B, N) int32, filled in place: which point of ``xyz2``.
        idx2: (B, M) int32, filled in place: which point of ``xyz1``.
    """
    _nearest(xyz1, xyz2, dist1, idx1)
    _nearest(xyz2, xyz1, dist2, idx2)


@supplies()
@torch.no_grad()
def chamfer_distance_backward(
    xyz1: Tensor,
    xyz2: Tensor,
    idx1: Tensor,
    idx2: Tensor,
    graddist1: Tensor,
    graddist2: Tensor,
    gradxyz1: Tensor,
    gradxyz2: Tensor,
) -> None:
    """Gradient of :func:`chamfer_distance_forward`, the neighbours taken as given.

    Args:
        xyz1: (B, N, 2) floating.
        xyz2: (B, M, 2).
        idx1: (B, N) int32 into ``xyz2``.
        idx2: (B, M) int32 into ``xyz1``.
        graddist1: (B, N), gradient of the squared distances from ``xyz1``.
        graddist2: (B, M), gradient of those from ``xyz2``.
        gradxyz1: (B, N, 2), added to in place.
        gradxyz2: (B, M, 2), added to in place.
    """
    for points, others, index, grad, to_points, to_others in (
        (xyz1, xyz2, idx1, graddist1, gradxyz1, gradxyz2),
        (xyz2, xyz1, idx2, graddist2, gradxyz2, gradxyz1),
    ):
        if index.numel() == 0 or others.shape[1] == 0:
            continue
        nearest = index.long()[..., None].expand(-1, -1, points.shape[2])
        pull = (2 * grad[..., None] * (points - others.gather(1, nearest))).to(to_points.dtype)
        to_points.add_(pull)
        to_others.scatter_add_(1, nearest, -pull)
