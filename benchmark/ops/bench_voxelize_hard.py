"""Hard voxelisation, beside the same rule on a ``std::unordered_map`` and the reference."""

from collections.abc import Iterator
from functools import partial

import torch

from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side
from anybev.benchmark.ops.scene import RANGE_M, VOXEL_SIZE_M
from anybev.device.ops.voxelize_hard import voxelize_hard

NAME = "voxelize_hard"
PEER = "unordered_map"

_MAX_POINTS = 10
# BEVFusion's caps in training and in evaluation.
_MAX_VOXELS = {"train cap": 120_000, "eval cap": 160_000}


def rows(ctx: Context) -> Iterator[Row]:
    """One sweep and ten, both caps; one sample is scanned by one thread whatever the pool.

    All sides are called as torch operators, so that none pays for our argument checks alone.
    """
    for scene in ctx.scenes.values():
        points = scene.points_lidar_m
        for cap_name, cap in _MAX_VOXELS.items():
            setting = (list(VOXEL_SIZE_M), list(RANGE_M), _MAX_POINTS, cap)
            voxels = len(voxelize_hard(points, *setting)[1])
            operators = torch.ops.anybev
            sides: dict[str, Side] = {
                OURS: partial(operators.voxelize_hard, points, *setting),
                REFERENCE: partial(operators.voxelize_hard_reference, points, *setting),
            }
            if ctx.on_cpu:
                sides[PEER] = partial(operators._bench_voxelize_hash_map, points, *setting)
            for threads in ctx.threads:
                yield from ctx.compare(
                    NAME,
                    f"{scene.name} {cap_name}",
                    sides,
                    shape={"points": len(points), "voxels": voxels},
                    threads=threads,
                    notes={PEER: "means only, no (V, 10, 5) tensor; always one thread"},
                )
