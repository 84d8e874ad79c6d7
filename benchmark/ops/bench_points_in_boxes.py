"""Points of one sweep and of ten against the boxes of a frame, beside the reference."""

from collections.abc import Iterator

from anybev.benchmark.ops.boxes import street_boxes
from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side, on_reference
from anybev.device.ops.points_in_boxes import points_in_boxes

NAME = "points_in_boxes"

_BOXES = 52


def rows(ctx: Context) -> Iterator[Row]:
    """What building the ground-truth database does for every frame."""
    boxes = ctx.put(street_boxes(_BOXES))
    for scene in ctx.scenes.values():
        points = scene.points_lidar_m
        ours: Side = lambda p=points: points_in_boxes(p, boxes)  # type: ignore[misc] # noqa: E731
        for threads in ctx.threads:
            yield from ctx.compare(
                NAME,
                f"{scene.name} x {_BOXES}",
                {OURS: ours, REFERENCE: on_reference(NAME, ours)},
                shape={"points": len(points), "boxes": _BOXES},
                threads=threads,
            )
