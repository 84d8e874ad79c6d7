"""A camera branch that tells classes apart on the map, before it joins a lidar model.

Cameras that start from nothing learn what they show long after the detector has learned to do
without them. Here they learn it first: from the cameras' map alone, a convolution has to say which
class stands at each annotated place. What it learned is written together with the lidar model, as
the checkpoint that the second stage starts from.
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

CAMERA_PARTS = ("img_backbone", "img_neck", "view_transform")


def pretrain_cameras(
    config: Config,
    lidar_checkpoint: Path,
    out: Path,
    *,
    steps: int,
    seed: int,
    learning_rate: float = 2e-3,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Train the camera branch and write the start of the second stage.

    Args:
        config: of a lidar-camera model, with its training data.
        lidar_checkpoint: of the first stage.
        out: file for ``load_from``: the first stage's weights and the camera branch's.
        steps: batches of the config's training data.
        seed: of weights, order and augmentation.
        learning_rate: highest of one cycle.
        progress: called with (steps done, steps in all).

    Returns:
        ``accuracy`` over the objects of the last tenth of the steps.

    Raises:
        ValueError: the config has no camera branch.
    """
    missing = [part for part in CAMERA_PARTS if not config.model.get(part)]
    if missing:
        raise ValueError(
            f"pretrain_cameras: model must have a camera branch, got no {missing[0]}; try a "
            "lidar-camera config"
        )
    backend = current_backend()
    backend.seed(seed)
    detector: Any = build_detector(config.model).to(backend.device()).train()
    cells = _Cells(config.model.bbox_head.train_cfg)
    classify = nn.Conv2d(detector.view_transform.out_channels, len(config.class_names), 3, 1, 1)
    classify.to(backend.device())
    learned = [getattr(detector, part) for part in CAMERA_PARTS]
    weights = [p for part in (*learned, classify) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    hits: list[Tensor] = []
    for step, batch in enumerate(_batches(config, seed, steps)):
        batch = batch.to(backend.device())
        with backend.autocast(enabled=backend.fast_amp()):
            camera_bev = detector.camera_map(batch)
        places, labels = cells.of(batch)
        logits = classify(camera_bev.float()).movedim(1, -1)[places.unbind(1)]
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        hits.append((logits.argmax(1) == labels).float())
        if progress:
            progress(step + 1, steps)
    state = dict(checkpoint.read(lidar_checkpoint)["state_dict"])
    trained = detector.state_dict()
    state |= {key: trained[key] for key in trained if key.split(".")[0] in CAMERA_PARTS}
    checkpoint.save(out, state, meta={"seed": seed, "steps": steps})
    return {"accuracy": float(torch.cat(hits[-max(1, steps // 10) :]).mean())}


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
