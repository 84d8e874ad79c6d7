"""Which query answers for which ground-truth box."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from anybev.device.ops.box_iou_rotated import box_iou_rotated


@dataclass(frozen=True)
class Candidates:
    """The queries and boxes of one sample and decoder layer.

    Attributes:
        boxes_lidar: (Q, >=7) decoded queries.
        logits: (Q, C) raw class logits.
        query_labels: (Q,) int64, class each query was proposed for.
        gt_boxes_lidar: (G, >=7).
        gt_labels: (G,) int64.
    """

    boxes_lidar: Tensor
    logits: Tensor
    query_labels: Tensor
    gt_boxes_lidar: Tensor
    gt_labels: Tensor


class Assigner(Protocol):
    """What target building needs of an assigner."""

    def costs(
        self, candidates: Candidates, iou: Tensor, point_cloud_range: Sequence[float]
    ) -> Tensor:
        """(Q, G) cost of each pair, given their 3D IoU."""
        ...

    def match(self, costs: Sequence[Tensor]) -> Tensor:
        """(len(costs), Q) int64 on the CPU: 0 for background, g + 1 for box g."""
        ...

    def overlaps(self, boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
        """(N, M) 3D IoU."""
        ...


class BboxOverlaps3D:
    """IoU of upright boxes: overlap seen from above times overlap in height, over the union.

    Args:
        coordinate: only ``lidar``.
    """

    def __init__(self, coordinate: str = "lidar") -> None:
        if coordinate != "lidar":
            raise ValueError(f"BboxOverlaps3D: coordinate must be lidar, got {coordinate!r}")

    def __call__(self, boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
        """(N, >=7) and (M, >=7) boxes to (N, M) IoU, float32."""
        a, b = boxes_a.detach().float(), boxes_b.detach().float()
        # Upstream's floor: a flat box must not divide by zero.
        bev_a, bev_b = (
            torch.cat([x[:, :2], x[:, 3:5].clamp(min=1e-4), x[:, 6:7]], dim=1) for x in (a, b)
        )
        area = box_iou_rotated(bev_a, bev_b, mode="intersection")
        top = torch.minimum((a[:, 2] + a[:, 5])[:, None], b[:, 2] + b[:, 5])
        bottom = torch.maximum(a[:, 2][:, None], b[:, 2])
        shared = area * (top - bottom).clamp(min=0)
        volume_a, volume_b = a[:, 3:6].prod(1), b[:, 3:6].prod(1)
        return shared / (volume_a[:, None] + volume_b - shared).clamp(min=1e-8)


class FocalLossCost:
    """Classification cost from the focal loss, at the class of each box.

    Args:
        weight: factor.
        alpha, gamma, eps: as in the loss.
    """

    def __init__(
        self, weight: float = 1.0, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-12
    ) -> None:
        self.weight, self.alpha, self.gamma, self.eps = weight, alpha, gamma, eps

    def __call__(self, logits: Tensor, gt_labels: Tensor) -> Tensor:
        """(Q, C) logits and (G,) classes to (Q, G)."""
        p = logits.detach().float().sigmoid()
        negative = -(1 - p + self.eps).log() * (1 - self.alpha) * p**self.gamma
        positive = -(p + self.eps).log() * self.alpha * (1 - p) ** self.gamma
        return (positive - negative)[:, gt_labels] * self.weight


class BBoxBEVL1Cost:
    """Distance of centres seen from above, each axis as a share of the range.

    Args:
        weight: factor.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(
        self, boxes: Tensor, gt_boxes: Tensor, point_cloud_range: Sequence[float]
    ) -> Tensor:
        """(Q, >=2) and (G, >=2) centres in metres to (Q, G)."""
        low = boxes.new_tensor(point_cloud_range[0:2])
        span = boxes.new_tensor(point_cloud_range[3:5]) - low
        a, b = (boxes[:, :2] - low) / span, (gt_boxes[:, :2] - low) / span
        return (a[:, None] - b[None]).abs().sum(-1) * self.weight


class IoU3DCost:
    """Overlap as a (negative) cost.

    Args:
        weight: factor.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, iou: Tensor) -> Tensor:
        """(Q, G) to (Q, G)."""
        return -iou * self.weight


class HungarianAssigner3D:
    """Cheapest one-to-one matching of boxes to queries.

    Args:
        cls_cost, reg_cost, iou_cost: terms of the cost.
        iou_calculator: 3D IoU.
    """

    def __init__(
        self,
        cls_cost: FocalLossCost,
        reg_cost: BBoxBEVL1Cost,
        iou_cost: IoU3DCost,
        iou_calculator: BboxOverlaps3D | None = None,
    ) -> None:
        self.cls_cost, self.reg_cost, self.iou_cost = cls_cost, reg_cost, iou_cost
        self.overlaps = iou_calculator or BboxOverlaps3D()

    def costs(
        self, candidates: Candidates, iou: Tensor, point_cloud_range: Sequence[float]
    ) -> Tensor:
        """Weighted sum of the three costs; see `Assigner`."""
        boxes, gt_boxes = candidates.boxes_lidar, candidates.gt_boxes_lidar.float()
        return (
            self.cls_cost(candidates.logits, candidates.gt_labels)
            + self.reg_cost(boxes, gt_boxes, point_cloud_range)
            + self.iou_cost(iou)
        )

    def match(self, costs: Sequence[Tensor]) -> Tensor:
        """Scipy's assignment; all matrices leave the device in one copy. See `Assigner`.

        Raises:
            RuntimeError: a cost is not finite: the head's outputs have diverged.
        """
        queries = costs[0].shape[0]
        counts = [cost.shape[1] for cost in costs]
        on_host = torch.cat([cost.reshape(-1) for cost in costs]).cpu().numpy()
        if not np.isfinite(on_host).all():
            raise RuntimeError(
                "HungarianAssigner3D: cost must be finite, got NaN or infinity; try a smaller "
                "learning rate or loss scale"
            )
        gt_inds = np.zeros((len(costs), queries), np.int64)
        blocks = np.split(on_host, np.cumsum([queries * n for n in counts])[:-1])
        for row, block, count in zip(gt_inds, blocks, counts, strict=True):
            query, box = linear_sum_assignment(block.reshape(queries, count))
            row[query] = box + 1
        return torch.from_numpy(gt_inds)


class HeuristicAssigner3D:
    """Each box takes the nearest query of its class; a query keeps the nearest box.

    Args:
        dist_thre: farthest match, metres.
        iou_calculator: 3D IoU.
    """

    def __init__(
        self, dist_thre: float = 100, iou_calculator: BboxOverlaps3D | None = None
    ) -> None:
        self.dist_thre = float(dist_thre)
        self.overlaps = iou_calculator or BboxOverlaps3D()

    def costs(
        self, candidates: Candidates, iou: Tensor, point_cloud_range: Sequence[float]
    ) -> Tensor:
        """Distance of centres in metres, ``dist_thre`` more for another class; see `Assigner`."""
        boxes, gt_boxes = candidates.boxes_lidar, candidates.gt_boxes_lidar.float()
        distance = (boxes[:, None, :2] - gt_boxes[None, :, :2]).norm(dim=-1)
        other = candidates.query_labels[:, None] != candidates.gt_labels[None]
        cost: Tensor = distance + other * self.dist_thre
        return cost

    def match(self, costs: Sequence[Tensor]) -> Tensor:
        """See `Assigner`; of equally near boxes the first wins."""
        gt_inds = np.zeros((len(costs), costs[0].shape[0]), np.int64)
        for row, on_device in zip(gt_inds, costs, strict=True):
            if on_device.shape[1] == 0:
                continue
            cost = on_device.cpu().numpy()
            query = cost.argmin(axis=0)
            nearest = cost.min(axis=0)
            box = np.flatnonzero(nearest <= self.dist_thre)
            # Farthest and latest first: a query's last write is its nearest, earliest box.
            box = box[np.lexsort((-box, -nearest[box]))]
            row[query[box]] = box + 1
        return torch.from_numpy(gt_inds)
