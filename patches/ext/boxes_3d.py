"""``mmcv._ext``: boxes with a height: which points they hold, what they share from above."""

import torch
from torch import Tensor

from anybev.device.ops.box_iou_rotated import box_iou_rotated as overlap_of_all
from anybev.device.ops.points_in_boxes import points_in_boxes
from anybev.patches.ext._table import supplies

# Columns of (x, y, z, dx, dy, dz, heading) that count from above.
FROM_ABOVE = [0, 1, 3, 4, 6]
# Point-box tests of which results are held at once.
_TESTS_AT_ONCE = 1 << 22


def _held(points: Tensor, boxes: Tensor) -> Tensor:
    """(P, T) bool: strictly between the four sides; bottom and top belong to the box.

    The operator counts all faces in: sides one step of the dtype shorter leave them out.
    """
    dtype = torch.float64 if torch.float64 in (points.dtype, boxes.dtype) else torch.float32
    boxes = boxes.to(dtype, copy=True)
    sides = boxes[:, 3:5]
    boxes[:, 3:5] = torch.where(sides > 0, torch.nextafter(sides, sides.new_zeros(())), -1)
    return points_in_boxes(points.to(dtype), boxes)


@supplies("points_in_boxes")
@torch.no_grad()
def points_in_boxes_part_forward(
    boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor
) -> None:
    """Number of the first box that holds each point, mmcv's ``points_in_boxes_part``.

    A point on one of the four sides is outside, one on the bottom or the top is inside.

    Args:
        boxes_tensor: (B, T, 7) floating: x, y, z of the bottom's centre, dx, dy, dz, heading.
        pts_tensor: (B, P, 3) floating.
        box_idx_of_points_tensor: (B, P) int32, filled in place where a box holds the point; the
            caller has set the rest (to -1).
    """
    if boxes_tensor.shape[1] == 0:
        return
    rows = max(1, _TESTS_AT_ONCE // boxes_tensor.shape[1])
    for boxes, points, found in zip(
        boxes_tensor, pts_tensor, box_idx_of_points_tensor, strict=True
    ):
        for some, index in zip(points.split(rows), found.split(rows), strict=True):
            inside = _held(some, boxes)
            first = inside.int().argmax(1).to(index.dtype)
            index.copy_(torch.where(inside.any(1), first, index))


@supplies("points_in_boxes")
@torch.no_grad()
def points_in_boxes_all_forward(
    boxes_tensor: Tensor, pts_tensor: Tensor, box_idx_of_points_tensor: Tensor
) -> None:
    """Whether each box holds each point, mmcv's ``points_in_boxes_all``.

    Faces as in :func:`points_in_boxes_part_forward`.

    Args:
        boxes_tensor: (B, T, 7) floating: x, y, z of the bottom's centre, dx, dy, dz, heading.
        pts_tensor: (B, P, 3) floating.
        box_idx_of_points_tensor: (B, P, T) int32, set to 1 in place where the box holds the
            point; the caller has set the rest (to 0).
    """
    for boxes, points, held in zip(boxes_tensor, pts_tensor, box_idx_of_points_tensor, strict=True):
        held.masked_fill_(_held(points, boxes), 1)


@supplies("points_in_boxes")
@torch.no_grad()
def points_in_boxes_cpu_forward(
    boxes_tensor: Tensor, pts_tensor: Tensor, pts_indices_tensor: Tensor
) -> None:
    """Whether each box holds each point, mmcv's ``points_in_boxes_cpu`` for one sample.

    Faces as in :func:`points_in_boxes_part_forward`. Runs on any device.

    Args:
        boxes_tensor: (T, 7) floating: x, y, z of the bottom's centre, dx, dy, dz, heading.
        pts_tensor: (P, 3) floating.
        pts_indices_tensor: (T, P) int32, filled in place with 0 and 1.
    """
    pts_indices_tensor.copy_(_held(pts_tensor, boxes_tensor).T)


@supplies("box_iou_rotated")
@torch.no_grad()
def iou3d_boxes_overlap_bev_forward(boxes_a: Tensor, boxes_b: Tensor, ans_iou: Tensor) -> None:
    """Area that boxes share from above, mmcv's ``boxes_overlap_bev``.

    The exact area, as mmcv documents it. (Its CUDA kernel counts a corner up to 1 cm outside the
    other box as inside, which adds up to a strip of that width.) A box whose dx or dy is not
    positive shares nothing.

    Args:
        boxes_a: (N, 7) floating: x, y, z, dx, dy, dz, heading; z and dz are not read.
        boxes_b: (M, 7).
        ans_iou: (N, M), filled in place with areas; its name promises more.
    """
    ans_iou.copy_(
        overlap_of_all(boxes_a[:, FROM_ABOVE], boxes_b[:, FROM_ABOVE], mode="intersection")
    )
