"""Inputs of the operators on boxes: overlap, suppression, heatmaps."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anybev.device.ops.box_iou_rotated import box_iou_rotated
from anybev.device.ops.draw_heatmap import draw_heatmap
from anybev.device.ops.nms_rotated import nms_rotated
from anybev.engine.check.case import FLOATS, WIDE, Case, Draw

_THRESHOLD = 0.3
# No overlap of a random input is nearer to the threshold than this: kernels that let a corner be a
# centimetre outside find a little more overlap.
_MARGIN = 0.03


def _boxes(draw: Draw, count: int, spread_m: float = 6.0) -> Tensor:
    """(count, 5) boxes that float16 and bfloat16 hold exactly."""
    centre = draw.uniform(count, 2, low=-spread_m, high=spread_m)
    size, yaw = draw.uniform(count, 2, low=0.5, high=5), draw.uniform(count, 1, low=-3, high=3)
    return torch.cat([centre, size, yaw], 1).bfloat16().float()


def _pairs(draw: Draw, first: int, second: int) -> Mapping[str, Any]:
    return {"boxes_a": _boxes(draw, first), "boxes_b": _boxes(draw, second)}


def _special_pairs(_: Draw) -> Mapping[str, Any]:
    """The same box, a quarter turn, a touching edge, one inside, no area, not finite."""
    square = [0.0, 0.0, 2.0, 2.0, 0.0]
    others = [
        square,
        [0.0, 0.0, 2.0, 2.0, math.pi / 2],
        [2.0, 0.0, 2.0, 2.0, 0.0],
        [0.25, 0.0, 0.5, 0.5, 0.5],
        [0.0, 0.0, 0.0, 2.0, 0.0],
        [0.0, 0.0, -1.0, 2.0, 0.0],
        [math.nan, 0.0, 2.0, 2.0, 0.0],
    ]
    return {"boxes_a": torch.tensor([square]), "boxes_b": torch.tensor(others)}


_PAIRS: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
    "60 x 40": partial(_pairs, first=60, second=40),
    "1 x 1": partial(_pairs, first=1, second=1),
    "33 x 1": partial(_pairs, first=33, second=1),
    "equal, touching, empty, not finite": _special_pairs,
    "0 x 5": partial(_pairs, first=0, second=5),
    "5 x 0": partial(_pairs, first=5, second=0),
}


def _settled(boxes: Tensor) -> Tensor:
    """The boxes whose overlap with each earlier kept box is clear of the threshold."""
    overlap = box_iou_rotated(boxes.double(), boxes.double())
    near = (overlap - _THRESHOLD).abs() < _MARGIN
    return boxes[~near.triu(1).any(0)]


def _ranked(draw: Draw, count: int, spread_m: float) -> Mapping[str, Any]:
    boxes = _settled(_boxes(draw, count, spread_m))
    # Distinct in bfloat16 as well: which of two equal scores comes first is a case of its own.
    scores = (draw.order(len(boxes)) + 1).float() / 256
    return {"boxes": boxes, "scores": scores, "iou_threshold": _THRESHOLD}


def _equal_scores(draw: Draw) -> Mapping[str, Any]:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [20, 0, 4, 2, 0], [0.5, 0, 4, 2, 0], [40, 0, 4, 2, 1]])
    return {"boxes": boxes, "scores": torch.full((4,), 0.5), "iou_threshold": _THRESHOLD}


_RANKED: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
    "120 boxes, crowded": partial(_ranked, count=120, spread_m=6),
    "200 boxes, spread": partial(_ranked, count=200, spread_m=40),
    "one box": partial(_ranked, count=1, spread_m=6),
    "equal scores": _equal_scores,
    "no box": partial(_ranked, count=0, spread_m=6),
}

_BATCH = 2
_MAP = {"grid": (24, 40), "cell_size_m": (0.5, 0.25), "origin_m": (-6.0, -5.0)}


def _targets(
    draw: Draw, count: int, num_classes: int, columns: int = 9, **changes: Any
) -> Mapping[str, Any]:
    """Boxes around and beside the map, some of a class that is ignored."""
    # Centres are in the middle of a cell: on its border rounding decides.
    x = draw.integers(-30, 30, count) * 0.5 + 0.25
    y = draw.integers(-50, 50, count) * 0.25 + 0.125
    rest = draw.uniform(count, columns - 2, low=0.3, high=6)
    return {
        "boxes_lidar": torch.cat([x[:, None], y[:, None], rest], 1),
        "labels": draw.integers(-1, num_classes, count),
        "sample_index": draw.integers(0, _BATCH, count),
        "batch_size": _BATCH,
        "num_classes": num_classes,
        **_MAP,
        **changes,
    }


_TARGETS: dict[str, Callable[[Draw], Mapping[str, Any]]] = {
    "40 boxes, 10 classes": partial(_targets, count=40, num_classes=10),
    "49 boxes, 2 classes": partial(_targets, count=49, num_classes=2),
    "7 columns, 1 class": partial(_targets, count=12, num_classes=1, columns=7),
    "another overlap": partial(_targets, count=20, num_classes=3, overlap=0.5, min_radius=0),
    "one box": partial(_targets, count=1, num_classes=2),
    "no box": partial(_targets, count=0, num_classes=10),
}

CASES = (
    *(
        Case(
            "box_iou_rotated",
            f"{mode}, {name}",
            partial(box_iou_rotated, mode=mode),
            make,
            dtypes=WIDE,
            values=("boxes_a", "boxes_b"),
        )
        for mode in ("iou", "intersection")
        for name, make in _PAIRS.items()
    ),
    *(
        Case("nms_rotated", name, nms_rotated, make, dtypes=FLOATS, values=("boxes", "scores"))
        for name, make in _RANKED.items()
    ),
    *(Case("draw_heatmap", name, draw_heatmap, make) for name, make in _TARGETS.items()),
)
