"""``knn`` without asking for the current CUDA device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def replace(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``KNN.forward`` for any device.

    Upstream compares the tensors' device with ``torch.cuda.current_device()``, which raises without
    CUDA, and leaves the process on the tensors' device. The kernel guards its device by itself, so
    that only this last, unwanted effect is gone.
    """
    ext_module = original.__globals__["ext_module"]

    def forward(
        ctx: Any,
        k: int,
        xyz: Tensor,
        center_xyz: Tensor | None = None,
        transposed: bool = False,
    ) -> Tensor:
        if not 0 < k < 100:
            raise AssertionError(f"knn: k must be in 1..99, got {k}")
        centers = xyz if center_xyz is None else center_xyz
        if transposed:
            xyz = xyz.transpose(2, 1).contiguous()
            centers = centers.transpose(2, 1).contiguous()
        if not (xyz.is_contiguous() and centers.is_contiguous()):
            raise AssertionError("knn: xyz and center_xyz must be contiguous")
        if centers.device != xyz.device:
            raise AssertionError("knn: center_xyz and xyz must be on one device")
        samples, count = centers.shape[:2]
        idx = centers.new_zeros((samples, count, k), dtype=torch.int32)
        dist2 = centers.new_zeros((samples, count, k), dtype=torch.float32)
        ext_module.knn_forward(
            xyz, centers, idx, dist2, b=samples, n=xyz.shape[1], m=count, nsample=k
        )
        idx = idx.transpose(2, 1).contiguous()
        ctx.mark_non_differentiable(idx)
        return idx

    return forward
