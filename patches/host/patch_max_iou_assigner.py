"""mmdet's assigner copies every object's best overlap to the host, one by one."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Method = Callable[..., Any]


def _low_quality(assigner: Any, overlaps: Tensor, assigned: Tensor) -> Tensor:
    """Give every object its best priors, even below the positive threshold.

    Of two objects with one best prior the later gets it.
    """
    best, best_prior = overlaps.max(dim=1)
    enough = best >= assigner.min_pos_iou
    if assigner.gt_max_assign_all:
        best = best.masked_fill(~enough, torch.inf)  # equal to no overlap
        objects, priors = (overlaps == best[:, None]).nonzero().unbind(1)
    else:
        objects = enough.nonzero()[:, 0]
        priors = best_prior[objects]
    winner = torch.zeros_like(assigned).scatter_reduce_(0, priors, objects + 1, "amax")
    return torch.where(winner > 0, winner, assigned)


def replace(original: Method) -> Method:
    """``MaxIoUAssigner.assign_wrt_overlaps``, also mmdet3d's, without the loop over objects.

    The same assignment, ties included.
    """

    @wraps(original)
    def assign_wrt_overlaps(self: Any, overlaps: Tensor, gt_labels: Tensor) -> Any:
        if overlaps.numel() == 0 or not self.match_low_quality:
            return original(self, overlaps, gt_labels)
        from mmdet.models.task_modules.assigners import AssignResult

        max_overlaps, argmax = overlaps.max(dim=0)
        assigned = torch.full_like(argmax, -1)
        low, high = 0.0, self.neg_iou_thr
        if isinstance(high, tuple):
            low, high = high
        if isinstance(high, float):
            assigned[(max_overlaps >= low) & (max_overlaps < high)] = 0
        assigned = torch.where(max_overlaps >= self.pos_iou_thr, argmax + 1, assigned)
        assigned = _low_quality(self, overlaps, assigned)
        labels = torch.where(assigned > 0, gt_labels[(assigned - 1).clamp(min=0)].long(), -1)
        return AssignResult(
            num_gts=len(overlaps), gt_inds=assigned, max_overlaps=max_overlaps, labels=labels
        )

    return assign_wrt_overlaps
