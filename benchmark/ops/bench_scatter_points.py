"""Scatter of points into voxels, beside the plain torch form and the reference."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side
from anybev.benchmark.ops.scene import RANGE_M, VOXEL_SIZE_M
from anybev.device.ops.scatter_points import scatter_points
from anybev.device.ops.voxelize_dynamic import voxelize_dynamic

NAME = "scatter_points"
PEER = "torch.unique and scatter"

# Features of a raw point, and of a pillar or voxel encoder's layers.
_CHANNELS = (5, 64)
# What each reduction is called in torch; a sum is a mean without its division.
_FORMS = {"mean": "mean", "max": "amax"}


def _plain(features: Tensor, coords: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
    """What one would write: every point inside, rows made unique, features scattered."""
    unique, voxel = torch.unique(coords, dim=0, return_inverse=True)
    out = features.new_zeros((len(unique), features.shape[1]))
    target = voxel[:, None].expand_as(features)
    form = _FORMS[reduce]
    return out.scatter_reduce(0, target, features, form, include_self=False), unique


def _plain_backward(features: Tensor, coords: Tensor, reduce: str, grad: Tensor) -> Side:
    leaf = features.clone().requires_grad_()
    out, _ = _plain(leaf, coords, reduce)
    return lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True)


def rows(ctx: Context) -> Iterator[Row]:
    """Points of one sweep and ten inside the range, 5 and 64 channels, mean and maximum.

    Ours and the reference are called as torch operators, without argument checks.
    """
    for scene in ctx.scenes.values():
        coords = voxelize_dynamic(scene.points_lidar_m, VOXEL_SIZE_M, RANGE_M)
        coords = coords[coords[:, 0] >= 0]
        for channels in _CHANNELS:
            features = ctx.put(torch.randn(len(coords), channels))
            for reduce in _FORMS:
                out, _, voxel, counts = scatter_points(features, coords, reduce)
                grad = torch.randn_like(out)
                values = (features, out) if reduce == "max" else (None, None)
                operators = torch.ops.anybev
                given = (grad, voxel, counts, *values, reduce)
                directions: dict[str, dict[str, Side]] = {
                    "forward": {
                        OURS: partial(operators.scatter_points, features, coords, reduce),
                        PEER: partial(_plain, features, coords, reduce),
                        REFERENCE: partial(
                            operators.scatter_points_reference, features, coords, reduce
                        ),
                    },
                    "backward": {
                        OURS: partial(operators.scatter_points_backward, *given),
                        PEER: _plain_backward(features, coords, reduce, grad),
                        REFERENCE: partial(operators.scatter_points_backward_reference, *given),
                    },
                }
                for threads in ctx.threads:
                    for direction, sides in directions.items():
                        yield from ctx.compare(
                            NAME,
                            f"{scene.name} {reduce} {channels}",
                            sides,
                            shape={
                                "points": len(coords),
                                "voxels": len(out),
                                "channels": channels,
                            },
                            direction=direction,
                            threads=threads,
                            notes={PEER: "a maximum's gradient is shared by equal points"},
                        )
