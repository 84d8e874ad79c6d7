"""Centre heatmaps of a training batch, beside the reference."""

from collections.abc import Iterator

import torch

from anybev.benchmark.ops.boxes import street_boxes
from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side, on_reference
from anybev.device.ops.draw_heatmap import draw_heatmap

NAME = "draw_heatmap"

_BATCH, _BOXES, _CLASSES = 4, 52, 10


def rows(ctx: Context) -> Iterator[Row]:
    """Four samples of 52 boxes on BEVFusion's 180 x 180 cells."""
    boxes = ctx.put(street_boxes(_BATCH * _BOXES))
    index = torch.arange(len(boxes), device=ctx.device)
    ours: Side = lambda: draw_heatmap(  # noqa: E731
        boxes,
        index % _CLASSES,
        index // _BOXES,
        batch_size=_BATCH,
        num_classes=_CLASSES,
        grid=(180, 180),
        cell_size_m=(0.6, 0.6),
        origin_m=(-54.0, -54.0),
    )
    for threads in ctx.threads:
        yield from ctx.compare(
            NAME,
            f"batch {_BATCH}",
            {OURS: ours, REFERENCE: on_reference(NAME, ours)},
            shape={"boxes": len(boxes), "heatmap": [_BATCH, _CLASSES, 180, 180]},
            threads=threads,
        )
