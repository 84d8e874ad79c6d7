"""Depth pictures of six cameras, beside the reference."""

from collections.abc import Iterator
from functools import partial

import torch

from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row
from anybev.benchmark.ops.rig import IMAGE_SIZE, load_rig
from anybev.device.ops.rasterize_depth import rasterize_depth

NAME = "rasterize_depth"


def rows(ctx: Context) -> Iterator[Row]:
    """One sweep and ten; all sides are called as torch operators, without argument checks."""
    rig = load_rig()
    pictures = ctx.put(rig.lidar2img), ctx.put(rig.img_aug_matrix.float())
    matrices = (*pictures, ctx.put(torch.zeros(3)), ctx.put(torch.eye(3)))
    for scene in ctx.scenes.values():
        arguments = (scene.points_lidar_m, *matrices, *IMAGE_SIZE)
        image = rasterize_depth(arguments[0], *pictures, ctx.put(torch.eye(4)), IMAGE_SIZE)
        for threads in ctx.threads:
            yield from ctx.compare(
                NAME,
                scene.name,
                {
                    OURS: partial(torch.ops.anybev.rasterize_depth, *arguments),
                    REFERENCE: partial(torch.ops.anybev.rasterize_depth_reference, *arguments),
                },
                shape={
                    "points": len(scene.points_lidar_m),
                    "images": list(image.shape),
                    "pixels": int((image != 0).sum()),
                },
                threads=threads,
                notes={OURS: rig.origin},
            )
