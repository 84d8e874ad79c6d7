"""Running a detector on a golden pack and collecting the stages the pack recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anybev.datasets.sample import Batch, CameraBatch
from anybev.models.bevfusion.assigner import Candidates
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.targets import HeadTargets
from anybev.testing.golden import GoldenPack, PackCameras, fill
from anybev.testing.stages import StageRecorder

MODELS = ("lidar_only", "lidar_cam")
_OUTPUTS = {
    "head.heatmap": "dense_heatmap",
    "head.top_class": "query_labels",
    "head.top_index": "query_cells",
    "head.center": "center",
    "head.height": "height",
    "head.dim": "dim",
    "head.rot": "rot",
    "head.vel": "vel",
    "head.cls": "heatmap",
    "head.query_score": "query_heatmap_score",
}


def fill_model(model: nn.Module, seed: int) -> None:
    """Give a model the deterministic weights of a pack."""
    state = model.state_dict()
    drawn = fill({key: tuple(value.shape) for key, value in state.items()}, seed)
    for key, values in drawn.items():
        state[key].copy_(torch.from_numpy(np.asarray(values)))


def batch_of(pack: GoldenPack) -> Batch:
    """The pack's frame as a batch of one."""
    inputs = pack.inputs()
    return Batch(
        points_lidar_m=[torch.from_numpy(inputs.points_lidar_m)],
        boxes_lidar=[torch.from_numpy(inputs.gt_boxes)],
        labels=[torch.from_numpy(inputs.gt_labels)],
        tokens=[pack.name],
        lidar_aug_matrix=torch.from_numpy(inputs.lidar_aug_matrix[None].astype(np.float32)),
        cameras=_cameras_of(inputs.cameras) if inputs.cameras else None,
    )


def _cameras_of(cameras: PackCameras) -> CameraBatch:
    matrices = {
        f.name: torch.from_numpy(getattr(cameras, f.name)[None].astype(np.float32))
        for f in fields(CameraBatch)
        if f.name != "images"
    }
    images = torch.from_numpy(cameras.images[None]).permute(0, 1, 4, 2, 3).contiguous()
    return CameraBatch(images=images, **matrices)


def run(
    detector: BEVFusion,
    pack: GoldenPack,
    model: str,
    device: torch.device | str = "cpu",
    *,
    inject_depth_image: bool = False,
) -> dict[str, Any]:
    """Forward, predict, loss and backward in eval mode, as the pack was recorded.

    What depends on the matching of queries to boxes, of which several can be equally cheap, is
    computed with the pack's own; ``train.gt_inds`` is this model's. For the same reason there are
    two sets of gradients where the view transform fuses its geometry: some dozens of the frustum's
    two million points lie so near a cell's edge that rounding decides, and gradients under random
    weights sway with them. ``train.grad_norms`` come from a second pass in the reference's order of
    operations, ``train.grad_norms_fused`` from the model as it is.

    Args:
        detector: the model, with the pack's weights.
        pack: inputs, and the recorded matching.
        model: whose recording to follow, ``lidar_only`` or ``lidar_cam``.
        device: where ``detector`` is.
        inject_depth_image: give the view transform the recorded depth image, not its own.

    Returns:
        Stage (without the model's name) to array.
    """
    detector.eval()
    batch = batch_of(pack).to(device)
    image = torch.from_numpy(pack.depth_image(model)).to(device) if inject_depth_image else None
    with StageRecorder(detector, image) as recorder:
        outputs = detector(batch)
        recorder.geometry(batch)
    stages = dict(recorder.stages)
    for stage, name in _OUTPUTS.items():
        if name in outputs:
            stages[stage] = outputs[name][0].detach().cpu().numpy()
    found = detector.bbox_head.predict(outputs)[0]
    stages["pred.boxes"] = found.boxes_lidar.cpu().numpy()
    stages["pred.scores"] = found.scores.cpu().numpy()
    stages["pred.labels"] = found.labels.cpu().numpy()
    own = detector.bbox_head.targets(outputs, batch.boxes_lidar, batch.labels)
    stages["train.gt_inds"] = own.gt_inds[0].cpu().numpy()
    stages |= _training_stages(detector, pack, model, batch, outputs)
    del outputs
    view = detector.view_transform
    if view is not None and not view.exact_geometry:
        fused = {f"{s}_fused": stages[s] for s in ("train.grad_names", "train.grad_norms")}
        view.exact_geometry = True
        exact = _training_stages(detector, pack, model, batch, detector(batch))
        view.exact_geometry = False
        stages |= fused | {name[: -len("_fused")]: exact[name[: -len("_fused")]] for name in fused}
    return stages | _assignment_case(detector, pack, batch)


def _training_stages(
    detector: BEVFusion,
    pack: GoldenPack,
    model: str,
    batch: Batch,
    outputs: Mapping[str, Tensor],
) -> dict[str, np.ndarray]:
    """Targets, losses and gradients under the recorded matching."""
    matching = [recorded_matching(pack, model, outputs).to(batch.lidar_aug_matrix.device)]
    targets = detector.bbox_head.targets(outputs, batch.boxes_lidar, batch.labels, matching)
    stages = _target_stages(targets)
    losses = detector.bbox_head.loss_from_targets(outputs, targets)
    total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    detector.zero_grad()
    torch.autograd.backward(total)
    stages |= {f"train.{name}": value.detach().cpu().numpy() for name, value in losses.items()}
    stages["train.loss"] = total.detach().cpu().numpy()
    return stages | _gradient_stages(detector)


def recorded_matching(pack: GoldenPack, model: str, outputs: Mapping[str, Tensor]) -> Tensor:
    """(Q,) the pack's matching, in this model's order of queries."""
    recorded = {
        (int(label), int(cell)): int(box)
        for label, cell, box in zip(
            pack.get(f"{model}/head.top_class").ravel(),
            pack.get(f"{model}/head.top_index").ravel(),
            pack.get(f"{model}/train.gt_inds").ravel(),
            strict=True,
        )
    }
    labels, cells = outputs["query_labels"][0].tolist(), outputs["query_cells"][0].tolist()
    queries = zip(labels, cells, strict=True)
    return torch.tensor([recorded.get(query, 0) for query in queries])


def _target_stages(targets: HeadTargets) -> dict[str, np.ndarray]:
    heatmap = targets.heatmap[0].cpu().numpy()
    return {
        "train.cost": targets.costs[0].cpu().numpy(),
        "train.labels": targets.labels[0].cpu().numpy(),
        "train.bbox_targets": targets.bbox_targets[0].cpu().numpy(),
        "train.bbox_weights": targets.bbox_weights[0].cpu().numpy(),
        "train.heatmap": heatmap,
        "train.heatmap_peaks": np.argwhere(heatmap == 1),
    }


def _gradient_stages(model: nn.Module) -> dict[str, np.ndarray]:
    norms = {
        name: float(parameter.grad.double().norm())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return {
        "train.grad_names": np.array(list(norms)),
        "train.grad_norms": np.array(list(norms.values())),
    }


def _assignment_case(detector: BEVFusion, pack: GoldenPack, batch: Batch) -> dict[str, np.ndarray]:
    """The pack's separate matching problem with real overlaps, where one matching is cheapest."""
    if "assign/boxes" not in pack.arrays:
        return {}
    head, device = detector.bbox_head, batch.lidar_aug_matrix.device
    boxes = torch.from_numpy(pack.array("assign/boxes")).to(device)
    logits = torch.from_numpy(pack.array("assign/cls")).to(device).T
    assigner, gt_boxes = head.train_cfg.assigner, batch.boxes_lidar[0]
    iou = assigner.overlaps(boxes, gt_boxes)
    labels = logits.argmax(1)
    candidates = Candidates(boxes, logits, labels, gt_boxes, batch.labels[0])
    cost = assigner.costs(candidates, iou, head.train_cfg.point_cloud_range)
    return {
        "assign/iou": iou.cpu().numpy(),
        "assign/cost": cost.cpu().numpy(),
        "assign/gt_inds": assigner.match([cost])[0].numpy(),
    }
