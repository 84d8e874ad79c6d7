"""Running a detector on a golden pack and collecting the stages the pack recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anybev.datasets.sample import Batch
from anybev.models.bevfusion.assigner import Candidates
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.targets import HeadTargets
from anybev.testing.golden import GoldenPack, fill

MODEL = "lidar_only"
_DENSE = {
    "pts_middle_encoder": "lidar.bev",
    "pts_neck": "fpn",
    "bbox_head.shared_conv": "head.shared",
}
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
    )


class StageRecorder:
    """Collects the outputs of a detector's modules while it runs (a context manager).

    Args:
        detector: the model to listen to.
    """

    def __init__(self, detector: BEVFusion) -> None:
        self.detector = detector
        self.stages: dict[str, np.ndarray] = {}
        self._levels: list[list[float]] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> StageRecorder:
        self._listen(self.detector.data_preprocessor, self._voxels)
        encoder = self.detector.pts_middle_encoder
        for level in (encoder.conv_input, *encoder.encoder_layers.values(), encoder.conv_out):
            self._listen(level, self._level)
        self._listen(self.detector.pts_backbone, self._backbone)
        for path, stage in _DENSE.items():
            module = self.detector.get_submodule(path)
            self._listen(module, lambda out, stage=stage: self._keep(stage, out))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _listen(self, module: nn.Module, take: Any) -> None:
        self._handles.append(module.register_forward_hook(lambda _m, _in, out: take(out)))

    def _keep(self, stage: str, value: Tensor) -> None:
        self.stages[stage] = value.detach().cpu().numpy()

    def _voxels(self, out: tuple[Tensor, Tensor]) -> None:
        self._keep("lidar.voxel_feats", out[0])
        self._keep("lidar.voxel_coords", out[1])

    def _level(self, out: Any) -> None:
        values = out.features.detach().double()
        sums = (values.sum(), (values**2).sum(), values.abs().max())
        self._levels.append([float(len(values)), *(float(s) for s in sums)])
        self.stages["lidar.levels"] = np.array(self._levels)

    def _backbone(self, out: tuple[Tensor, ...]) -> None:
        for index, stage in enumerate(out):
            self._keep(f"second{index}", stage)


def run(
    detector: BEVFusion, pack: GoldenPack, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Forward, predict, loss and backward in eval mode, as the pack was recorded.

    What depends on the matching of queries to boxes, of which several can be equally cheap, is
    computed with the pack's own; ``train.gt_inds`` is this model's.

    Returns:
        Stage (without the model's name) to array.
    """
    detector.eval().requires_grad_(True).zero_grad()
    batch = batch_of(pack).to(device)
    with StageRecorder(detector) as recorder:
        outputs = detector(batch)
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
    matching = [recorded_matching(pack, stages).to(device)]
    targets = detector.bbox_head.targets(outputs, batch.boxes_lidar, batch.labels, matching)
    stages |= _target_stages(targets)
    losses = detector.bbox_head.loss_from_targets(outputs, targets)
    total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    torch.autograd.backward(total)
    stages |= {f"train.{name}": value.detach().cpu().numpy() for name, value in losses.items()}
    stages["train.loss"] = total.detach().cpu().numpy()
    stages |= _gradient_stages(detector)
    return stages | _assignment_case(detector, pack, batch)


def recorded_matching(pack: GoldenPack, stages: Mapping[str, np.ndarray]) -> Tensor:
    """(Q,) the pack's matching, in this model's order of queries."""
    recorded = {
        (int(label), int(cell)): int(box)
        for label, cell, box in zip(
            pack.get(f"{MODEL}/head.top_class").ravel(),
            pack.get(f"{MODEL}/head.top_index").ravel(),
            pack.get(f"{MODEL}/train.gt_inds").ravel(),
            strict=True,
        )
    }
    queries = zip(stages["head.top_class"].ravel(), stages["head.top_index"].ravel(), strict=True)
    return torch.tensor([recorded.get((int(label), int(cell)), 0) for label, cell in queries])


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
