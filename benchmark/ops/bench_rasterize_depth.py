"""Depth pictures of six cameras, beside the reference."""

from collections.abc import Iterator
from functools import partial

import torch

from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row
from anybev.benchmark.ops.rig import IMAGE_SIZE, load_rig

NAME = "rasterize_depth"


def rows(ctx: Context) -> Iterator[Row]:
    """One sweep and ten; all sides are called as torch operators, without argument checks."""
    rig = load_rig()
    matrices = (rig.lidar2img, rig.img_aug_matrix.float(), torch.zeros(3), torch.eye(3))
    for scene in ctx.scenes.values():
        arguments = (scene.points_lidar_m, *matrices, *IMAGE_SIZE)
        drawn = int((torch.ops.anybev.rasterize_depth(*arguments) != 0).sum())
        for threads in ctx.threads:
            yield from ctx.compare(
                NAME,
                scene.name,
                {
                    OURS: partial(torch.ops.anybev.rasterize_depth, *arguments),
                    REFERENCE: partial(torch.ops.anybev.rasterize_depth_reference, *arguments),
                },
                shape={"points": len(scene.points_lidar_m), "cameras": 6, "pixels drawn": drawn},
                threads=threads,
                notes={OURS: rig.origin},
            )
