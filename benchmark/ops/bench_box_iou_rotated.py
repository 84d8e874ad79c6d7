"""Rotated IoU, beside the reference and, where it is installed, shapely's polygons."""

from collections.abc import Iterator
from importlib import import_module, metadata, util

import numpy as np
import torch
from torch import Tensor

from anybev.benchmark.ops.boxes import seen_from_above, street_boxes
from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side, on_reference
from anybev.device.ops.box_iou_rotated import box_iou_rotated

NAME = "box_iou_rotated"


def _corners(boxes: Tensor) -> np.ndarray:
    """(N, 4, 2) corners."""
    x, y, dx, dy, yaw = boxes.double().unbind(1)
    along = torch.stack([torch.cos(yaw), torch.sin(yaw)], 1) * dx[:, None] / 2
    across = torch.stack([-torch.sin(yaw), torch.cos(yaw)], 1) * dy[:, None] / 2
    centre = torch.stack([x, y], 1)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return torch.stack([centre + u * along + v * across for u, v in signs], 1).numpy()


def _by_shapely(boxes_a: Tensor, boxes_b: Tensor) -> np.ndarray:
    shapely = import_module("shapely")
    a = shapely.polygons(_corners(boxes_a))[:, None]
    b = shapely.polygons(_corners(boxes_b))[None]
    shared = shapely.area(shapely.intersection(a, b))
    return np.asarray(shared / (shapely.area(a) + shapely.area(b) - shared))


def rows(ctx: Context) -> Iterator[Row]:
    """The matching of one sample (200 x 52), spread over the scene and crowded together."""
    for case, spread_m in (("scene", 50.0), ("crowd", 5.0)):
        a = ctx.put(seen_from_above(street_boxes(200, spread_m=spread_m)))
        b = ctx.put(seen_from_above(street_boxes(52, spread_m=spread_m, seed=1)))
        ours: Side = lambda a=a, b=b: box_iou_rotated(a, b)  # type: ignore[misc] # noqa: E731
        sides = {OURS: ours, REFERENCE: on_reference(NAME, ours)}
        if ctx.on_cpu and util.find_spec("shapely") is not None:
            sides[f"shapely {metadata.version('shapely')}"] = (
                lambda a=a, b=b: _by_shapely(a, b)  # type: ignore[misc]
            )
        for threads in ctx.threads:
            yield from ctx.compare(
                NAME, f"{case} 200 x 52", sides, shape={"pairs": 200 * 52}, threads=threads
            )
