"""``furthest_point_sample`` with its buffers where the points are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def replace(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``FurthestPointSampling.forward`` for any device.

    Upstream makes both buffers with ``torch.cuda.IntTensor`` and ``torch.cuda.FloatTensor``, which
    exist on the current CUDA device only. The call of the kernel and its arguments are the same.
    """
    ext_module = original.__globals__["ext_module"]

    def forward(ctx: Any, points_xyz: Tensor, num_points: int) -> Tensor:
        if not points_xyz.is_contiguous():
            raise AssertionError("furthest_point_sample: points_xyz must be contiguous")
        samples, points = points_xyz.shape[:2]
        output = points_xyz.new_empty((samples, num_points), dtype=torch.int32)
        nearest = points_xyz.new_full((samples, points), 1e10, dtype=torch.float32)
        ext_module.furthest_point_sampling_forward(
            points_xyz, nearest, output, b=samples, n=points, m=num_points
        )
        ctx.mark_non_differentiable(output)
        return output

    return forward
