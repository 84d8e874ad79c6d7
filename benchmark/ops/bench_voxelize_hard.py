"""Hard voxelisation, beside the same rule on a ``std::unordered_map`` and the reference."""

from collections.abc import Iterator

import torch

from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side, on_reference
from anybev.benchmark.ops.scene import RANGE_M, VOXEL_SIZE_M
from anybev.device.ops.voxelize_hard import voxelize_hard

NAME = "voxelize_hard"
PEER = "unordered_map"

_MAX_POINTS = 10
# BEVFusion's caps in training and in evaluation.
_MAX_VOXELS = {"train cap": 120_000, "eval cap": 160_000}


def rows(ctx: Context) -> Iterator[Row]:
    """One sweep and ten, both caps; one sample is scanned by one thread whatever the pool."""
    for scene in ctx.scenes.values():
        points = scene.points_lidar_m
        for cap_name, cap in _MAX_VOXELS.items():
            setting = (list(VOXEL_SIZE_M), list(RANGE_M), _MAX_POINTS, cap)
            ours: Side = lambda p=points, s=setting: voxelize_hard(p, *s)  # type: ignore[misc] # noqa: E731
            peer: Side = lambda p=points, s=setting: (  # type: ignore[misc] # noqa: E731
                torch.ops.anybev._bench_voxelize_hash_map(p, *s)
            )
            voxels = len(voxelize_hard(points, *setting)[1])
            for threads in ctx.threads:
                yield from ctx.compare(
                    NAME,
                    f"{scene.name} {cap_name}",
                    {OURS: ours, PEER: peer, REFERENCE: on_reference(NAME, ours)},
                    shape={"points": len(points), "voxels": voxels},
                    threads=threads,
                    notes={PEER: "means only, no (V, 10, 5) tensor; always one thread"},
                )
