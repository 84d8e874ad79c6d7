"""A small BEVFusion trained on one real frame finds that frame's objects."""

from pathlib import Path

import numpy as np
import pytest
import torch

import anybev
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.sample import Batch, Detections, collate
from anybev.datasets.transforms import (
    LoadAnnotations3D,
    LoadPointsFromFile,
    ObjectNameFilter,
    ObjectRangeFilter,
    PointsRangeFilter,
)
from anybev.demo import SMALL_CONFIGS
from anybev.engine.builder import build_detector
from anybev.engine.config import Config

RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
STEPS = 300
MIN_SCORE = 0.3
MAX_DISTANCE_M = 1.0


def load(test_data: Path, classes: list[str]) -> Batch:
    folder = test_data / "data" / "nuscenes_frame"
    (info,) = folder.glob("*.pkl")
    pipeline = [
        LoadPointsFromFile(),
        LoadAnnotations3D(),
        PointsRangeFilter(RANGE),
        ObjectRangeFilter(RANGE),
        ObjectNameFilter(classes),
    ]
    dataset = NuScenesDataset(info.name, folder, classes, pipeline, data_prefix={"pts": ""})
    return collate([dataset[0]])


def one_to_one(found: Detections, batch: Batch) -> tuple[int, int, int]:
    """(matched, found, wanted): each detection takes the nearest free box of its class."""
    keep = found.scores >= MIN_SCORE
    order = found.scores[keep].argsort(descending=True)
    boxes = found.boxes_lidar[keep][order].numpy()
    labels = found.labels[keep][order].numpy()
    wanted, classes = batch.boxes_lidar[0].numpy(), batch.labels[0].numpy()
    free = np.ones(len(wanted), bool)
    matched = 0
    for box, label in zip(boxes, labels, strict=True):
        distance = np.linalg.norm(wanted[:, :2] - box[:2], axis=1)
        distance[~free | (classes != label)] = np.inf
        if distance.size and distance.min() <= MAX_DISTANCE_M:
            free[distance.argmin()] = False
            matched += 1
    return matched, len(boxes), len(wanted)


@pytest.mark.slow
def test_small_model_finds_the_objects_of_a_real_frame(test_data: Path) -> None:
    config = Config.fromfile(str(Path(anybev.__file__).parent / SMALL_CONFIGS["lidar"]))
    torch.manual_seed(0)
    detector = build_detector(config.model)
    batch = load(test_data, list(config.class_names))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    detector.train()
    for _ in range(STEPS):
        losses = detector.loss(batch)
        loss = sum(value for name, value in losses.items() if "loss" in name)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    detector.eval()
    with torch.no_grad():
        (found,) = detector.predict(batch)
    matched, detected, wanted = one_to_one(found, batch)
    print(f"{matched} of {wanted} boxes found, {detected} detections")
    assert wanted > 20
    assert matched / wanted >= 0.8
    assert matched / detected >= 0.5
