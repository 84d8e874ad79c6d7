"""``mmcv._ext``: suppression of overlapping boxes."""

import torch
from torch import Tensor

from anybev.device.ops.nms_rotated import nms_rotated as suppress_rotated
from anybev.patches.ext._greedy import keep_greedily
from anybev.patches.ext._table import supplies
from anybev.patches.ext.boxes import horizontal_iou
from anybev.patches.ext.boxes_3d import FROM_ABOVE
from anybev.patches.ext.boxes_rotated import in_radians, rotated_rectangles

_NAIVE, _LINEAR = 0, 1
# Smallest union that mmcv's kernels for boxes with a height divide by.
_SMALLEST_UNION = 1e-8


def kept_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """(kept,) int64: the operator, for thresholds outside [0, 1] too.

    No overlap is greater than 1, and all are greater than a negative threshold.
    """
    if 0 <= iou_threshold <= 1:
        return suppress_rotated(boxes, scores, iou_threshold)
    order = torch.argsort(scores, descending=True, stable=True)
    return order if iou_threshold > 1 else order[:1]


@supplies()
@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep the best of each group of overlapping boxes, mmcv's ``nms``.

    A box goes where its IoU with a kept one is greater than the threshold. Equal scores rank by
    lower index. An IoU of 0 / 0 suppresses nothing.

    Args:
        boxes: (N, 4) floating: x1, y1, x2, y2.
        scores: (N,) floating.
        iou_threshold: greater than this suppresses.
        offset: 0, or 1 where a box ends with the pixel (x2, y2), which adds 1 to its sizes.

    Returns:
        (kept,) int64 indices by descending score.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    ranked = boxes[order]
    kept = keep_greedily(
        order.numel(),
        lambda i, j: horizontal_iou(ranked[i, None], ranked[None, j], offset) > iou_threshold,
        like=boxes,
    )
    return order[kept]


@supplies()
@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap a better one, mmcv's ``soft_nms``.

    Round by round the best of the remaining boxes is taken and the scores of the others fall by
    their IoU with it; those below ``min_score`` are dropped. Which of equal scores comes first
    follows mmcv, which swaps the box it takes with the first remaining one and fills the place of
    a dropped box with the last.

    Args:
        boxes: (N, 4) floating: x1, y1, x2, y2.
        scores: (N,) floating.
        dets: (N, 5), its first rows filled in place: box and lowered score, in the order taken.
        iou_threshold: naive and linear leave scores alone where the IoU is less than this.
        sigma: width of the Gaussian.
        min_score: boxes whose score falls below are dropped.
        method: 0 naive (times 0), 1 linear (times 1 - IoU), 2 Gaussian (times exp(-IoU^2 / sigma)).
        offset: as in :func:`nms`.

    Returns:
        (taken,) int64 indices in the order taken; as many rows of ``dets`` are filled.
    """
    index = torch.arange(boxes.shape[0], device=boxes.device)
    left = torch.cat([boxes, scores[:, None]], 1)
    taken, taken_rows = [index[:0]], [left[:0]]
    while index.numel():
        best = left[:, 4].argmax()
        first, rest = _split_off(left, best)
        first_index, index = _split_off(index, best)
        overlap = horizontal_iou(first[:, :4], rest[:, :4], offset)
        rest[:, 4] *= _weight(overlap, iou_threshold, sigma, method)
        remaining = _without_dropped(rest[:, 4] < min_score)
        left, index = rest[remaining], index[remaining]
        taken.append(first_index)
        taken_rows.append(first)
    rows = torch.cat(taken_rows)
    dets[: rows.shape[0]] = rows
    return torch.cat(taken)


def _split_off(values: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """The row ``best`` and the others, the first of them in its place."""
    rest = values.clone()
    rest[best] = values[0]
    return values[best][None], rest[1:]


def _weight(overlap: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method in (_NAIVE, _LINEAR):
        lowered = torch.zeros_like(overlap) if method == _NAIVE else 1 - overlap
        return torch.where(overlap >= iou_threshold, lowered, 1)
    return torch.exp(-(overlap * overlap) / sigma)


def _without_dropped(dropped: Tensor) -> Tensor:
    """Positions of the others, in mmcv's order: the last ones move to the places set free."""
    count = int((~dropped).sum())
    position = torch.arange(count, device=dropped.device)
    free = dropped[:count].nonzero()[:, 0]
    position[free] = (count + (~dropped[count:]).nonzero()[:, 0]).flip(0)
    return position


@supplies()
@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes, each a kept box and those that it suppresses, mmcv's ``nms_match``.

    Unlike :func:`nms`, an IoU equal to the threshold suppresses.

    Args:
        dets: (N, 5) floating: x1, y1, x2, y2, score.
        iou_threshold: this or more suppresses.

    Returns:
        A list of indices a kept box, by descending score, the kept one first.
    """
    order = torch.argsort(dets[:, 4], descending=True, stable=True)
    ranked = dets[order, :4]

    def suppresses(i: Tensor, j: Tensor) -> Tensor:
        return horizontal_iou(ranked[i, None], ranked[None, j], 0) >= iou_threshold

    kept = keep_greedily(order.numel(), suppresses, like=dets)
    groups: dict[int, list[int]] = {rank: [] for rank in kept.tolist()}
    if kept.numel() == 0:
        return []
    for some in torch.arange(order.numel(), device=dets.device).split(1024):
        removes = suppresses(kept, some) & (kept[:, None] < some)
        # A kept box is the first to suppress itself, whatever its overlap with itself.
        removes |= kept[:, None] == some
        owner = kept[removes.int().argmax(0)]
        for rank, index in zip(owner.tolist(), order[some].tolist(), strict=True):
            groups[rank].append(index)
    return list(groups.values())


@supplies("nms_rotated")
@torch.no_grad()
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Keep the best of each group of overlapping rotated boxes, mmcv's ``nms_rotated``.

    A box goes where its IoU with a kept one is greater than the threshold, as mmcv documents and
    its CUDA kernel has it (its CPU kernel: or equal). Labels are not looked at: mmcv's kernels
    carry them along and compare boxes of all labels; ``batched_nms`` keeps classes apart.

    Args:
        dets: (N, 5) floating: centre x, y, width, height, angle; a sixth column holds labels.
        scores: (N,) floating.
        order: (N,) int64, indices by descending score; recomputed, with equal scores by lower
            index.
        dets_sorted: (N, 5) or (N, 6), ``dets`` in that order; not read.
        labels: (N,) or empty; not read.
        iou_threshold: greater than this suppresses.
        multi_label: whether there are labels; not read.

    Returns:
        (kept,) int64 indices by descending score.
    """
    return kept_rotated(rotated_rectangles(in_radians(dets)), scores, iou_threshold)


def _fill(keep: Tensor, num_out: Tensor, kept: Tensor) -> None:
    keep[: kept.numel()] = kept.to(keep.device)
    num_out.fill_(kept.numel())


@supplies("nms_rotated")
@torch.no_grad()
def iou3d_nms3d_forward(
    boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float
) -> None:
    """Suppress by the overlap from above, heading included, mmcv's ``nms3d``.

    Heights are not looked at. The exact overlap is compared, see
    :func:`~anybev.patches.ext.boxes_3d.iou3d_boxes_overlap_bev_forward`.

    Args:
        boxes: (N, 7) floating: x, y, z, dx, dy, dz, heading, best first.
        keep: (N,) int64, its first entries filled in place with the kept ones, ascending.
        num_out: () int64, filled in place with their number.
        nms_overlap_thresh: an IoU greater than this suppresses.
    """
    rank = torch.arange(boxes.shape[0], 0, -1, dtype=torch.float64, device=boxes.device)
    _fill(keep, num_out, kept_rotated(boxes[:, FROM_ABOVE], rank, nms_overlap_thresh))


@supplies()
@torch.no_grad()
def iou3d_nms3d_normal_forward(
    boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float
) -> None:
    """Suppress by the overlap from above with every heading taken as 0, mmcv's ``nms3d_normal``.

    Args:
        boxes: (N, 7) floating: x, y, z, dx, dy, dz, heading, best first.
        keep: (N,) int64, its first entries filled in place with the kept ones, ascending.
        num_out: () int64, filled in place with their number.
        nms_overlap_thresh: an IoU greater than this suppresses.
    """
    low, high = boxes[:, :2] - boxes[:, 3:5] / 2, boxes[:, :2] + boxes[:, 3:5] / 2
    area = boxes[:, 3] * boxes[:, 4]

    def suppresses(i: Tensor, j: Tensor) -> Tensor:
        sides = torch.minimum(high[i, None], high[None, j])
        sides = (sides - torch.maximum(low[i, None], low[None, j])).clamp(min=0)
        shared = sides[..., 0] * sides[..., 1]
        union = (area[i, None] + area[None, j] - shared).clamp(min=_SMALLEST_UNION)
        return shared / union > nms_overlap_thresh

    _fill(keep, num_out, keep_greedily(boxes.shape[0], suppresses, like=boxes))
