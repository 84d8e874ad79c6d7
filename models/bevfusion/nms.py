"""Suppression of boxes that tell of the same object, class by class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.ops.nms_rotated import nms_rotated


def nms_circle(centers_m: Tensor, scores: Tensor, squared_radius: float) -> Tensor:
    """Keep the best of boxes whose centres lie together.

    Args:
        centers_m: (N, 2).
        scores: (N,).
        squared_radius: boxes at this squared distance or nearer fall together, square metres.

    Returns:
        (K,) int64, by descending score.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = centers_m[order]
    # Differences, not cdist: its matrix product loses centimetres 50 m away from the origin.
    near = ((ranked[:, None] - ranked).square().sum(-1) <= squared_radius).cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    for rank in range(len(order)):
        if alive[rank]:
            alive[rank + 1 :] &= ~near[rank, rank + 1 :]
    return order[alive.to(order.device)]


def suppress(
    boxes_lidar: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    nms_type: str,
    radius: Sequence[float],
    pre_maxsize: int | None,
    post_maxsize: int,
) -> Tensor:
    """(N,) bool mask of boxes (N, >=7) that stay; see ``HeadTestCfg`` for the settings."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for label, limit in enumerate(radius):
        rows = (labels == label).nonzero()[:, 0]
        if limit > 0 and len(rows):
            bev, chosen = boxes_lidar[rows][:, [0, 1, 3, 4, 6]], scores[rows]
            if nms_type == "circle":
                kept = nms_circle(bev[:, :2], chosen, limit)
            else:
                order = chosen.argsort(descending=True, stable=True)[:pre_maxsize]
                kept = order[nms_rotated(bev[order], chosen[order], limit)]
            rows = rows[kept[:post_maxsize]]
        keep[rows] = True
    return keep
