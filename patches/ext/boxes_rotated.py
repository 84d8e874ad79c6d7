"""``mmcv._ext``: overlaps of rotated boxes seen from above."""

from typing import Literal

import torch
from torch import Tensor

from anybev.device.ops.box_iou_rotated import box_iou_rotated as overlap_of_all
from anybev.patches.ext._table import supplies

# mmcv's kernels call a box of a smaller area empty.
_SMALLEST_AREA = 1e-14
# Boxes of one call to the operator, which knows no pairs: a block's diagonal is what is wanted.
_PAIRED_AT_ONCE = 32
_VERTEX_SLOTS = 9
_FIRST_CROSSING = 8


def rotated_rectangles(boxes: Tensor) -> Tensor:
    """Boxes as the operator takes them and mmcv's kernels see them.

    The kernels ask for a positive area, not for positive sizes: two negative sizes describe the
    rectangle of their absolute values, and a box of (nearly) no area overlaps nothing.

    Args:
        boxes: (N, >=5) floating: centre x, y, width, height, angle in radians; the width is along
            (cos angle, sin angle). Further columns are not read.

    Returns:
        (N, 5) of the same dtype.
    """
    centre, size, angle = boxes[:, :2], boxes[:, 2:4], boxes[:, 4:5]
    empty = size.prod(1, keepdim=True) < _SMALLEST_AREA
    return torch.cat([centre, torch.where(empty, 0, size.abs()), angle], 1)


def in_radians(boxes: Tensor) -> Tensor:
    """(N, >=5) boxes with the angle that mmcv's caller gave: for an NPU mmcv makes it degrees."""
    if boxes.device.type != "npu":
        return boxes
    return torch.cat([boxes[:, :4], torch.deg2rad(boxes[:, 4:5]), boxes[:, 5:]], 1)


def _paired(boxes_a: Tensor, boxes_b: Tensor, mode: Literal["iou", "intersection"]) -> Tensor:
    blocks = [
        overlap_of_all(a, b, mode=mode).diagonal()
        for a, b in zip(boxes_a.split(_PAIRED_AT_ONCE), boxes_b.split(_PAIRED_AT_ONCE), strict=True)
    ]
    return torch.cat(blocks) if blocks else boxes_a.new_empty(0)


@supplies("box_iou_rotated")
@torch.no_grad()
def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Overlap of rotated boxes, mmcv's ``box_iou_rotated``.

    A rising angle turns +x towards +y: clockwise where y points down, as in an image, and
    counter-clockwise in a lidar's frame. A box whose area is not positive overlaps nothing.

    Args:
        boxes1: (N, 5) floating: centre x, y, width, height, angle in radians.
        boxes2: (M, 5); M = N where ``aligned``.
        ious: filled in place: N * M values in rows of M, of any shape; (N,) where ``aligned``.
        mode_flag: 0 intersection over union, 1 intersection over the area of ``boxes1``.
        aligned: pair row with row instead of all with all.
    """
    rectangles1, rectangles2 = (rotated_rectangles(in_radians(b)) for b in (boxes1, boxes2))
    mode: Literal["iou", "intersection"] = "iou" if mode_flag == 0 else "intersection"
    if aligned:
        overlap = _paired(rectangles1, rectangles2, mode)
    else:
        overlap = overlap_of_all(rectangles1, rectangles2, mode=mode)
    if mode_flag == 1:
        area = rectangles1[:, 2].to(overlap) * rectangles1[:, 3].to(overlap)
        area = area.clamp(min=_SMALLEST_AREA)
        overlap = overlap / (area if aligned else area[:, None])
    ious.copy_(overlap.reshape(ious.shape))


@supplies()
@torch.no_grad()
def diff_iou_rotated_sort_vertices_forward(
    vertices: Tensor, mask: Tensor, num_valid: Tensor
) -> Tensor:
    """Order of the corners of the polygon that two rectangles share.

    Corners go counter-clockwise from the direction +x. Of corners that coincide the one of the
    lowest index is taken. Where more than eight distinct ones remain, which only rounding can do,
    those farthest from their predecessor are taken. (mmcv's kernel passes over a corner whose y is
    exactly 0, and fills up with corner 0 where corners coincide; neither is done here.)

    Args:
        vertices: (B, N, V, 2) floating, relative to the mean of the valid ones: 4 + 4 corners of
            the two boxes, then the crossings of their edges.
        mask: (B, N, V) bool, which of them belong to the shared polygon.
        num_valid: (B, N) int32, how many do; of fewer than three no polygon is made.

    Returns:
        (B, N, 9) int32: the corners, the first one again, then a crossing that is not valid.
    """
    slots = vertices.shape[2]
    angle = torch.atan2(vertices[..., 1], vertices[..., 0]).remainder(2 * torch.pi)
    angle = angle.masked_fill(~mask, torch.inf)
    order = torch.argsort(angle, dim=2, stable=True)
    valid = mask.gather(2, order)
    ranked = vertices.gather(2, order[..., None].expand(*order.shape, 2))
    gap = (ranked - _predecessor(ranked, valid)).abs().amax(3)
    gap = torch.where(valid, gap, -1)
    # The first corner is kept whatever the gap: identical boxes have no corner with one.
    wanted = gap > 0
    wanted[..., 0] |= valid[..., 0] & ~wanted.any(2)
    gap = torch.where(wanted, gap, -1)
    most = _VERTEX_SLOTS - 1
    farthest = torch.argsort(gap, dim=2, descending=True, stable=True)[..., :most]
    chosen = torch.zeros_like(mask).scatter(2, farthest, True) & wanted
    place = torch.where(chosen, torch.arange(slots, device=order.device), slots)
    place = place.sort(2).values[..., :most]
    corners = order.gather(2, place.clamp(max=slots - 1))
    return _closed(corners, place < slots, mask, num_valid)


def _predecessor(ranked: Tensor, valid: Tensor) -> Tensor:
    """(B, N, V, 2): the corner before each one, going round."""
    last = (valid.sum(2, keepdim=True) - 1).clamp(min=0)[..., None].expand(-1, -1, -1, 2)
    before = ranked.roll(1, dims=2)
    before[..., :1, :] = ranked.gather(2, last)
    return before


def _closed(corners: Tensor, present: Tensor, mask: Tensor, num_valid: Tensor) -> Tensor:
    """Repeat the first corner after the last one and pad, as mmcv's ``sort_indices`` has it."""
    slots = mask.shape[2]
    pad = _FIRST_CROSSING + mask[..., _FIRST_CROSSING:].int().argmin(2, keepdim=True)
    count = present.sum(2, keepdim=True)
    position = torch.arange(_VERTEX_SLOTS, device=mask.device)
    filled = torch.nn.functional.pad(corners, (0, _VERTEX_SLOTS - corners.shape[2]))
    filled = torch.where(position < count, filled, pad)
    filled = torch.where(position == count, corners[..., :1], filled)
    drawn = (num_valid[..., None] >= 3) & (count > 0)
    return torch.where(drawn, filled, pad.clamp(max=slots - 1)).int()
