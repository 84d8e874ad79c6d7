"""Rotated suppression of a thousand boxes, beside the reference."""

from collections.abc import Iterator

import torch

from anybev.benchmark.ops.boxes import seen_from_above, street_boxes
from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side, on_reference
from anybev.device.ops.nms_rotated import nms_rotated

NAME = "nms_rotated"


def rows(ctx: Context) -> Iterator[Row]:
    """Boxes over the whole scene (most are kept) and in a crowd (most are not)."""
    for case, spread_m in (("scene", 50.0), ("crowd", 10.0)):
        boxes = ctx.put(seen_from_above(street_boxes(1000, spread_m=spread_m)))
        scores = ctx.put(torch.rand(1000, generator=torch.Generator().manual_seed(0)))
        ours: Side = lambda b=boxes, s=scores: nms_rotated(b, s, 0.2)  # type: ignore[misc] # noqa: E731
        kept = len(nms_rotated(boxes, scores, 0.2))
        for threads in ctx.threads:
            yield from ctx.compare(
                NAME,
                f"{case} 1000",
                {OURS: ours, REFERENCE: on_reference(NAME, ours)},
                shape={"boxes": 1000, "kept": kept},
                threads=threads,
            )
