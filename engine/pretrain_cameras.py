"""A camera branch that tells classes apart on the map, before it joins the lidar.

Cameras that start from nothing learn what they show long after the detector has learned to do
without them. Here they learn it first: behind the fuser, with an empty map in the lidar's place, a
linear layer has to say which class stands at each annotated place. What camera branch and fuser
learned is written as the checkpoint that training with both starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from anybev.datasets.sample import Batch
from anybev.device import current_backend
from anybev.engine import checkpoint
from anybev.engine.builder import build_detector
from anybev.engine.runner import Runner

CAMERA_PARTS = ("img_backbone", "img_neck", "view_transform", "fusion_layer")


def pretrain_cameras(
    config: Config,
    out: Path,
    *,
    lidar_checkpoint: Path | None = None,
    steps: int,
    seed: int,
    learning_rate: float = 2e-3,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float | None]:
    """Train camera branch and fuser, and write what training with both starts from.

    Args:
        config: of a lidar-camera model, with its training data.
        out: file for ``load_from``: the camera branch's weights, the fuser's and the lidar model's.
        lidar_checkpoint: a lidar model's; without one ``out`` has no lidar parts, and
            ``load_from_may_lack`` must name them.
        steps: batches of the config's training data, 1 or more.
        seed: of weights, order and augmentation.
        learning_rate: highest of one cycle.
        progress: called with (steps done, steps in all).

    Returns:
        ``accuracy`` over the objects of the last tenth of the steps; None where they had none.

    Raises:
        ValueError: the config has no camera branch or no fuser, or its training data give no batch.
    """
    if steps < 1:
        raise ValueError(f"pretrain_cameras: steps must be 1 or more, got {steps}")
    missing = [part for part in CAMERA_PARTS if not config.model.get(part)]
    if missing:
        raise ValueError(
            f"pretrain_cameras: model must have a camera branch and a fuser, got no {missing[0]}; "
            "try a lidar-camera config"
        )
    backend = current_backend()
    backend.seed(seed)
    detector: Any = build_detector(config.model).to(backend.device()).train()
    cells = _Cells(config.model.bbox_head.train_cfg)
    fuser = detector.fusion_layer
    classify = nn.Conv2d(fuser.out_channels, len(config.class_names), 1).to(backend.device())
    learned = [getattr(detector, part) for part in CAMERA_PARTS]
    weights = [p for part in (*learned, classify) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    # Gradients of float16 arithmetic vanish unless the loss is scaled.
    scaler = torch.amp.GradScaler(
        backend.device_type, enabled=backend.fast_amp() and backend.amp_dtype is torch.float16
    )
    hits: list[Tensor] = []
    for step, batch in enumerate(_batches(config, seed, steps)):
        batch = batch.to(backend.device())
        with backend.autocast(enabled=backend.fast_amp()):
            camera_bev = detector.camera_map(batch)
        no_lidar = camera_bev.new_zeros(len(batch), fuser.in_channels[-1], *camera_bev.shape[2:])
        logits = classify(fuser([camera_bev, no_lidar]))
        places, labels = cells.of(batch)
        logits = logits.movedim(1, -1)[places.unbind(1)]
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:  # else the gradients were not finite, the step was skipped
            schedule.step()
        hits.append((logits.argmax(1) == labels).float())
        if progress:
            progress(step + 1, steps)
    state = dict(checkpoint.read(lidar_checkpoint)["state_dict"]) if lidar_checkpoint else {}
    trained = detector.state_dict()
    state |= {key: trained[key] for key in trained if key.split(".")[0] in CAMERA_PARTS}
    checkpoint.save(out, state, meta={"seed": seed, "steps": steps})
    last = torch.cat(hits[-max(1, steps // 10) :])
    return {"accuracy": float(last.mean()) if len(last) else None}


def _batches(config: Config, seed: int, steps: int) -> Any:
    """``steps`` batches of the training data, epoch after epoch."""
    init_default_scope(config.default_scope)
    loader = Runner.build_dataloader(config.train_dataloader, seed=seed)
    done, epoch = 0, 0
    while True:
        sampler: Any = loader.sampler
        sampler.set_epoch(epoch)
        for data in loader:
            yield data["batch"]
            done += 1
            if done == steps:
                return
        if not done:
            raise ValueError(
                "pretrain_cameras: train_dataloader must give a batch, got none; try a smaller "
                "batch_size or more frames"
            )
        epoch += 1


class _Cells:
    """Where objects stand on the detector's map.

    Args:
        train_cfg: of the head: range, voxel size and cells.
    """

    def __init__(self, train_cfg: Any) -> None:
        factor = train_cfg.out_size_factor
        self.low_m = train_cfg.point_cloud_range[:2]
        self.cell_m = [size * factor for size in train_cfg.voxel_size[:2]]
        self.grid = [n // factor for n in train_cfg.grid_size[:2]]

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(K, 3) int64 sample, x and y cell of the objects on the map, and their labels (K,)."""
        rows, labels = [], []
        for sample, (boxes, kinds) in enumerate(zip(batch.boxes_lidar, batch.labels, strict=True)):
            low, cell = boxes.new_tensor(self.low_m), boxes.new_tensor(self.cell_m)
            place = ((boxes[:, :2] - low) / cell).floor().long()
            kept = ((place >= 0) & (place < place.new_tensor(self.grid))).all(1) & (kinds >= 0)
            rows.append(nn.functional.pad(place[kept], (1, 0), value=sample))
            labels.append(kinds[kept])
        return torch.cat(rows), torch.cat(labels)
