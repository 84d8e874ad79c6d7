"""Dynamic voxelisation, beside the same rule in torch (the reference) and hard voxelisation."""

from collections.abc import Iterator
from functools import partial

import torch

from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row
from anybev.benchmark.ops.scene import RANGE_M, VOXEL_SIZE_M
from anybev.device.ops import voxelize_hard  # noqa: F401 (registers its operator)
from anybev.device.ops.voxelize_dynamic import voxelize_dynamic

NAME = "voxelize_dynamic"
PEER = "voxelize_hard"


def rows(ctx: Context) -> Iterator[Row]:
    """One sweep and ten; all sides are called as torch operators, without argument checks."""
    for scene in ctx.scenes.values():
        points, setting = scene.points_lidar_m, (list(VOXEL_SIZE_M), list(RANGE_M))
        inside = int((voxelize_dynamic(points, *setting)[:, 0] >= 0).sum())
        for threads in ctx.threads:
            yield from ctx.compare(
                NAME,
                scene.name,
                {
                    OURS: partial(torch.ops.anybev.voxelize_dynamic, points, *setting),
                    PEER: partial(torch.ops.anybev.voxelize_hard, points, *setting, 10, 160_000),
                    REFERENCE: partial(
                        torch.ops.anybev.voxelize_dynamic_reference, points, *setting
                    ),
                },
                shape={"points": len(points), "inside": inside},
                threads=threads,
                notes={PEER: "does more: numbers voxels and averages their points"},
            )
