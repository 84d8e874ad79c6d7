"""What the head should have said: class, box and heatmap targets of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anybev.device.ops.draw_heatmap import draw_heatmap
from anybev.models.bevfusion.assigner import Assigner, Candidates
from anybev.models.bevfusion.box_coder import TransFusionBBoxCoder
from anybev.models.bevfusion.head_config import HeadTrainCfg


@dataclass(frozen=True)
class HeadTargets:
    """Targets of a batch; Q counts the queries of all decoder layers.

    Attributes:
        gt_inds: (B, Q) int64, 0 for background, g + 1 for box g of the sample.
        labels: (B, Q) int64, number of classes for background.
        bbox_targets, bbox_weights: (B, Q, code_size); weights are 1 on matched rows.
        heatmap: (B, C, X, Y), peaks are exactly 1.
        matched_ious: scalar, mean 3D IoU of the matched pairs.
        num_positives: matched queries of the batch.
        costs: per sample and layer, (queries of a layer, G).
    """

    gt_inds: Tensor
    labels: Tensor
    bbox_targets: Tensor
    bbox_weights: Tensor
    heatmap: Tensor
    matched_ious: Tensor
    num_positives: int
    costs: list[Tensor]


def _drop_ignored(boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    keep = labels >= 0
    return boxes[keep].float(), labels[keep]


def _matching_on_host(matching: Sequence[Tensor], queries: int, counts: Sequence[int]) -> Tensor:
    for sample, (indices, count) in enumerate(zip(matching, counts, strict=True)):
        valid = indices.shape == (queries,) and bool(((indices >= 0) & (indices <= count)).all())
        if not valid:
            raise ValueError(
                f"matching: entry {sample} must be ({queries},) with values 0..{count}, got "
                f"{tuple(indices.shape)} with values up to {int(indices.max())}"
            )
    return torch.stack([indices.to("cpu", torch.int64) for indices in matching])


def _matched_mean(ious: Sequence[Tensor], gt_inds: Tensor) -> Tensor:
    """Mean over samples of the mean IoU of each sample's matched queries."""
    means = []
    for iou, indices in zip(ious, gt_inds, strict=True):
        if iou.shape[1] == 0:
            means.append(iou.new_zeros(()))
            continue
        matched = indices > 0
        pairs = iou.gather(1, (indices - 1).clamp(min=0)[:, None])[:, 0].clamp(0, 1)
        means.append((pairs * matched).sum() / matched.sum().clamp(min=1))
    return torch.stack(means).mean()


@torch.no_grad()
def build_targets(
    outputs: Mapping[str, Tensor],
    boxes_lidar: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    coder: TransFusionBBoxCoder,
    assigner: Assigner,
    cfg: HeadTrainCfg,
    matching: Sequence[Tensor] | None = None,
) -> HeadTargets:
    """Match queries to boxes and encode what each should predict.

    Args:
        outputs: of `TransFusionHead.forward`.
        boxes_lidar: B tensors (G_b, 9).
        labels: B tensors (G_b,) int64, -1 for ignored.
        coder: regression code.
        assigner: matches queries to boxes.
        cfg: ranges and sizes.
        matching: B tensors (Q,) to take instead of the assigner's; its numbers count the boxes
            that are not ignored.
    """
    pairs = [_drop_ignored(b, y) for b, y in zip(boxes_lidar, labels, strict=True)]
    decoded, logits = coder.decode(outputs), outputs["heatmap"].float().transpose(1, 2)
    query_labels = outputs["query_labels"]
    batch, queries, num_classes = logits.shape
    per_layer = query_labels.shape[1]
    costs, ious = [], []
    for sample, (gt_boxes, gt_labels) in enumerate(pairs):
        iou = assigner.overlaps(decoded[sample], gt_boxes)
        ious.append(iou)
        for start in range(0, queries, per_layer):
            rows = slice(start, start + per_layer)
            candidates = Candidates(
                decoded[sample, rows],
                logits[sample, rows],
                query_labels[sample],
                gt_boxes,
                gt_labels,
            )
            costs.append(assigner.costs(candidates, iou[rows], cfg.point_cloud_range))
    if matching is None:
        on_host = assigner.match(costs).view(batch, queries)
    else:
        on_host = _matching_on_host(matching, queries, [len(y) for _, y in pairs])
    gt_inds = on_host.to(decoded.device)
    # A row of zeros in front: what a background query is given.
    codes = pad_sequence([_with_background(coder.encode(b), 0) for b, _ in pairs], True)
    classes = pad_sequence([_with_background(y, num_classes) for _, y in pairs], True)
    index = gt_inds[..., None].expand(-1, -1, coder.code_size)
    return HeadTargets(
        gt_inds=gt_inds,
        labels=classes.gather(1, gt_inds),
        bbox_targets=codes.gather(1, index),
        bbox_weights=(index > 0).float(),
        heatmap=_heatmap(pairs, outputs["dense_heatmap"], cfg),
        matched_ious=_matched_mean(ious, gt_inds),
        num_positives=int((on_host > 0).sum()),
        costs=costs,
    )


def _with_background(rows: Tensor, value: int) -> Tensor:
    return torch.cat([rows.new_full((1, *rows.shape[1:]), value), rows])


def _heatmap(
    pairs: Sequence[tuple[Tensor, Tensor]], dense_heatmap: Tensor, cfg: HeadTrainCfg
) -> Tensor:
    batch, num_classes, size_x, size_y = dense_heatmap.shape
    device = dense_heatmap.device
    sample_index = torch.cat(
        [torch.full((len(y),), i, device=device) for i, (_, y) in enumerate(pairs)]
    )
    return draw_heatmap(
        torch.cat([b for b, _ in pairs]),
        torch.cat([y for _, y in pairs]),
        sample_index,
        batch_size=batch,
        num_classes=num_classes,
        grid=(size_x, size_y),
        cell_size_m=[v * cfg.out_size_factor for v in cfg.voxel_size[:2]],
        origin_m=cfg.point_cloud_range[:2],
        overlap=cfg.gaussian_overlap,
        min_radius=cfg.min_radius,
    )
