"""Overlap of rotated boxes seen from above."""

from typing import Literal

import torch
from torch import Tensor

from anybev.device.ops._checks import (
    check_columns,
    check_floating,
    check_same_device,
    promote_half,
)
from anybev.device.ops._contract import Contract

_MODES = ("iou", "intersection")
# Pairs that the reference holds at once: its temporaries are some 40 values a pair.
_PAIRS_AT_ONCE = 1 << 18


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by boxes ``a`` (N, 1, 5) and ``b`` (1, M, 5).

    In the frame of ``b`` the area is a line integral along the four edges of ``a``: by Green's
    theorem, of -clamp(y, -h, h) dx over the part with |x| <= w. No vertices are collected or
    sorted, so touching and coincident edges are no special case, and the error stays within
    rounding of the area of ``b``.
    """
    cos_b, sin_b = torch.cos(b[..., 4]), torch.sin(b[..., 4])
    turn = a[..., 4] - b[..., 4]
    cos_t, sin_t = torch.cos(turn), torch.sin(turn)
    dx, dy = a[..., 0] - b[..., 0], a[..., 1] - b[..., 1]
    centre_x, centre_y = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
    half_a, half_b = a[..., 2:4].clamp(min=0) / 2, b[..., 2:4].clamp(min=0) / 2
    w, h = half_b[..., 0], half_b[..., 1]
    ux, uy = half_a[..., 0] * cos_t, half_a[..., 0] * sin_t
    vx, vy = -half_a[..., 1] * sin_t, half_a[..., 1] * cos_t
    corners = [
        (centre_x - ux - vx, centre_y - uy - vy),
        (centre_x + ux - vx, centre_y + uy - vy),
        (centre_x + ux + vx, centre_y + uy + vy),
        (centre_x - ux + vx, centre_y - uy + vy),
    ]
    area = torch.zeros_like(turn)
    for i in range(4):
        area = area - _edge_integral(corners[i], corners[(i + 1) % 4], w, h)
    return area.clamp(min=0)


def _edge_integral(
    start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], w: Tensor, h: Tensor
) -> Tensor:
    """Integral of clamp(y, -h, h) dx along the part of an edge with -w <= x <= w."""
    (x0, y0), (x1, y1) = start, end
    xa, xb = torch.clamp(x0, -w, w), torch.clamp(x1, -w, w)
    run, rise = x1 - x0, y1 - y0
    safe_run = torch.where(run == 0, torch.ones_like(run), run)
    ya, yb = y0 + (xa - x0) / safe_run * rise, y0 + (xb - x0) / safe_run * rise
    low, high = torch.minimum(ya, yb), torch.maximum(ya, yb)
    span = high - low
    safe_span = torch.where(span == 0, torch.ones_like(span), span)
    low_in, high_in = torch.clamp(low, -h, h), torch.clamp(high, -h, h)
    above = (high - torch.maximum(low, h)).clamp(min=0)
    below = (torch.minimum(high, -h) - low).clamp(min=0)
    mean = ((high_in - low_in) * (low_in + high_in) / 2 + (above - below) * h) / safe_span
    return (xb - xa) * torch.where(span == 0, low_in, mean)


def _reference(boxes_a: Tensor, boxes_b: Tensor, mode: str) -> Tensor:
    result = boxes_a.new_empty((boxes_a.shape[0], boxes_b.shape[0]))
    if result.numel() == 0:
        return result
    rows = max(1, _PAIRS_AT_ONCE // boxes_b.shape[0])
    # Not left to arithmetic: a clamp can swallow an infinity.
    odd_a, odd_b = (~torch.isfinite(b).all(1) for b in (boxes_a, boxes_b))
    area_a, area_b = (b[:, 2].clamp(min=0) * b[:, 3].clamp(min=0) for b in (boxes_a, boxes_b))
    for i in range(0, boxes_a.shape[0], rows):
        shared = _intersection(boxes_a[i : i + rows, None], boxes_b[None])
        if mode == "iou":
            union = area_a[i : i + rows, None] + area_b[None] - shared
            shared = torch.where(union == 0, torch.zeros_like(shared), shared / union)
        result[i : i + rows] = shared
    return result.masked_fill_(odd_a[:, None] | odd_b[None], torch.nan)


def _fake(boxes_a: Tensor, boxes_b: Tensor, mode: str) -> Tensor:
    return boxes_a.new_empty((boxes_a.shape[0], boxes_b.shape[0]))


_CONTRACT = Contract(
    "box_iou_rotated",
    "(Tensor boxes_a, Tensor boxes_b, str mode) -> Tensor",
    reference=_reference,
    fake=_fake,
)
_CONTRACT.register_no_gradient()
_CONTRACT.register_autocast(torch.float32)


def box_iou_rotated(
    boxes_a: Tensor, boxes_b: Tensor, *, mode: Literal["iou", "intersection"] = "iou"
) -> Tensor:
    """Overlap of every box of one set with every box of the other.

    A box whose dx or dy is not positive has no area and overlaps nothing (0). A box with a NaN or
    infinite entry gives NaN against every box.

    Args:
        boxes_a: (N, 5) floating: centre x, y and sizes dx, dy in metres, yaw in radians (0 at +x,
            counter-clockwise).
        boxes_b: (M, 5), the same device. float16 and bfloat16 are computed in float32; of two
            dtypes the wider counts.
        mode: ``"iou"`` or ``"intersection"`` (square metres).

    Returns:
        (N, M) float32 or float64; no gradient.

    Raises:
        TypeError: boxes are not floating.
        ValueError: a shape, device or mode is out of its contract.

    Source: rotated IoU as in mmcv's ``box_iou_rotated``, by a formula of our own.
    """
    for name, boxes in (("boxes_a", boxes_a), ("boxes_b", boxes_b)):
        check_floating("box_iou_rotated", name, boxes)
        check_columns("box_iou_rotated", name, boxes, 5, rows="N" if name == "boxes_a" else "M")
    check_same_device("box_iou_rotated", "boxes_b", boxes_b, boxes_a.device)
    if mode not in _MODES:
        raise ValueError(f"box_iou_rotated: mode must be one of {_MODES}, got {mode!r}")
    boxes_a, boxes_b = promote_half(boxes_a, boxes_b)
    overlap: Tensor = _CONTRACT(boxes_a, boxes_b, mode)
    return overlap
