"""projects/BEVFusion's head draws its targets object by object, waiting for the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anybev.patches.host._heatmap import draw_gaussians
from anybev.patches.host.patch_gaussian_radius import radius_of

Method = Callable[..., Any]


def _overlaps(result: Any, boxes: Tensor) -> Tensor:
    """Best overlap of every query; the assigner names none where a sample has no objects."""
    if result.max_overlaps is None:
        return boxes.new_zeros(len(result.gt_inds))
    overlaps: Tensor = result.max_overlaps
    return overlaps


def _assigned(head: Any, predicted: dict[str, Tensor], given: Any, batch_idx: int) -> Any:
    """Boxes that the head predicts, and what the assigner of each layer makes of them."""
    from mmdet.models.task_modules import AssignResult

    # The coder works on its arguments in place.
    part = {
        name: predicted[name].detach().clone()
        for name in ("heatmap", "center", "height", "dim", "rot", "vel")
        if name in predicted
    }
    score = part["heatmap"]
    decoded = head.bbox_coder.decode(
        score, part["rot"], part["dim"], part["center"], part["height"], part.get("vel")
    )
    boxes: Tensor = decoded[0]["bboxes"]
    truth, labels = given.bboxes_3d.tensor.to(score.device), given.labels_3d
    results = []
    for layer in range(head.num_decoder_layers if head.auxiliary else 1):
        queries = slice(layer * head.num_proposals, (layer + 1) * head.num_proposals)
        kind = head.train_cfg.assigner.type
        if kind == "HungarianAssigner3D":
            rest = (labels, score[..., queries], head.train_cfg)
        elif kind == "HeuristicAssigner":
            rest = (None, labels, head.query_labels[batch_idx])
        else:
            raise NotImplementedError(f"TransFusionHead: no assigner {kind}")
        results.append(head.bbox_assigner.assign(boxes[queries], truth, *rest))
    together = AssignResult(
        num_gts=sum(result.num_gts for result in results),
        gt_inds=torch.cat([result.gt_inds for result in results]),
        max_overlaps=torch.cat([_overlaps(result, boxes) for result in results]),
        labels=torch.cat([result.labels for result in results]),
    )
    return boxes, truth, together


def _heatmap(head: Any, given: Any, device: torch.device) -> Tensor:
    """Dense targets (classes, rows, columns); upstream draws with x along the rows."""
    config = head.train_cfg
    stride = config["out_size_factor"]
    voxel, origin = torch.tensor(config["voxel_size"]), torch.tensor(config["point_cloud_range"])
    across, along = (int(n) // stride for n in config["grid_size"][:2])
    tensor = torch.cat([given.bboxes_3d.gravity_center, given.bboxes_3d.tensor[:, 3:]], dim=1)
    boxes = tensor.to(device)
    heatmap = boxes.new_zeros(head.num_classes, along, across)
    # Numbers on the host as divisors, as upstream: CUDA then multiplies by the reciprocal.
    width, length = boxes[:, 3] / voxel[0] / stride, boxes[:, 4] / voxel[1] / stride
    kept = ((width > 0) & (length > 0)).nonzero()[:, 0]
    if len(kept) == 0:
        return heatmap
    radius = radius_of(length[kept], width[kept], config["gaussian_overlap"])
    radius = radius.long().clamp(min=config["min_radius"])
    x, y = (((boxes[:, i] - origin[i]) / voxel[i] / stride)[kept].int().long() for i in (0, 1))
    draw_gaussians(heatmap, given.labels_3d.to(device)[kept], y, x, radius)
    return heatmap


def replace(original: Method) -> Method:
    """``TransFusionHead.get_targets_single`` with all Gaussians drawn at once; the same targets.

    A sample without objects, at which upstream fails, has background targets.
    """
    del original

    def get_targets_single(
        self: Any, gt_instances_3d: Any, preds_dict: dict[str, Tensor], batch_idx: int
    ) -> tuple[Any, ...]:
        from mmengine.structures import InstanceData

        labels_3d = gt_instances_3d.labels_3d
        boxes, truth, assigned = _assigned(self, preds_dict, gt_instances_3d, batch_idx)
        sampled = self.bbox_sampler.sample(
            assigned, InstanceData(priors=boxes), InstanceData(bboxes=truth)
        )
        positive, negative = sampled.pos_inds, sampled.neg_inds
        count = preds_dict["center"].shape[-1]
        if len(positive) + len(negative) != count:
            raise ValueError(
                f"TransFusionHead: every one of {count} queries must be positive or negative, got "
                f"{len(positive)} and {len(negative)}"
            )
        targets = boxes.new_zeros((count, self.bbox_coder.code_size), dtype=torch.float32)
        weights = torch.zeros_like(targets)
        ious = assigned.max_overlaps.clamp(min=0.0, max=1.0)
        labels = boxes.new_full((count,), self.num_classes, dtype=torch.long)
        label_weights = boxes.new_zeros(count, dtype=torch.long)
        if len(positive):
            targets[positive] = self.bbox_coder.encode(sampled.pos_gt_bboxes)
            weights[positive] = 1.0
            labels[positive] = labels_3d[sampled.pos_assigned_gt_inds]
            weight = self.train_cfg.pos_weight
            label_weights[positive] = 1 if weight <= 0 else weight
        label_weights[negative] = 1
        heatmap = _heatmap(self, gt_instances_3d, boxes.device)
        mean_iou = ious[positive].sum() / max(len(positive), 1)
        return (
            labels[None],
            label_weights[None],
            targets[None],
            weights[None],
            ious[None],
            len(positive),
            float(mean_iou),
            heatmap[None],
        )

    return get_targets_single
