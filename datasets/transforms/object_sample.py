"""Puts objects of other frames into the scene (SECOND, Yan et al. 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from anybev.datasets.boxes import bev_rectangles
from anybev.datasets.gt_sampler import DataBaseSampler, ObjectRecord
from anybev.datasets.sample import Sample
from anybev.device.ops.box_iou_rotated import box_iou_rotated
from anybev.device.ops.points_in_boxes import points_in_boxes


class ObjectSample:
    """Fills the scene up to so many objects a class with objects from the database.

    A candidate that overlaps, seen from above, a box of the scene or one already taken is left
    out. The points of the scene inside a new box give way to those of the object.

    Args:
        db_sampler: the database, or its arguments.
        sample_2d: image patches; not supported.
        use_ground_plane: not supported.
        disable_after_epoch: from this epoch index on (counted from 0) nothing is put in; None
            never stops.
    """

    def __init__(
        self,
        db_sampler: DataBaseSampler | Mapping[str, Any],
        sample_2d: bool = False,
        use_ground_plane: bool = False,
        *,
        disable_after_epoch: int | None = None,
    ) -> None:
        if sample_2d or use_ground_plane:
            raise ValueError(
                "ObjectSample: sample_2d and use_ground_plane must be False, got "
                f"{sample_2d} and {use_ground_plane}"
            )
        if isinstance(db_sampler, Mapping):
            arguments = {k: v for k, v in db_sampler.items() if k != "type"}
            db_sampler = DataBaseSampler(**arguments)
        self.db_sampler = db_sampler
        self.disable_after_epoch = disable_after_epoch

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Add points and boxes."""
        if self.disable_after_epoch is not None and sample.key.epoch >= self.disable_after_epoch:
            return sample
        taken = sample.boxes_lidar
        records: list[ObjectRecord] = []
        for label, wanted in self.db_sampler.wanted(sample.labels):
            candidates = self.db_sampler.draw(label, wanted, sample.key, sample.seed)
            free = _free_of_collisions(taken, candidates)
            records += free
            taken = np.concatenate([taken, *(r.box_lidar[None] for r in free)])
        return self._put(sample, records) if records else sample

    def _put(self, sample: Sample, records: list[ObjectRecord]) -> Sample:
        boxes = np.stack([r.box_lidar for r in records])
        inside = points_in_boxes(
            torch.from_numpy(np.ascontiguousarray(sample.points_lidar_m[:, :3])),
            torch.from_numpy(boxes[:, :7].copy()),
        )
        scene = sample.points_lidar_m.compress(~inside.any(1).numpy(), axis=0)
        objects = [self.db_sampler.points_of(record) for record in records]
        sample.points_lidar_m = np.concatenate([*objects, scene])
        sample.boxes_lidar = np.concatenate([sample.boxes_lidar, boxes])
        labels = np.array([r.label for r in records], np.int64)
        sample.labels = np.concatenate([sample.labels, labels])
        counts = np.array([r.num_points for r in records], np.int64)
        sample.num_lidar_pts = np.concatenate([sample.num_lidar_pts, counts])
        return sample


def _free_of_collisions(
    taken_lidar: np.ndarray, candidates: list[ObjectRecord]
) -> list[ObjectRecord]:
    """Candidates that overlap neither ``taken_lidar`` nor an earlier one of their own kind."""
    if not candidates:
        return []
    boxes = np.concatenate([taken_lidar, np.stack([r.box_lidar for r in candidates])])
    flat = torch.from_numpy(bev_rectangles(boxes).astype(np.float32))
    overlap = (box_iou_rotated(flat[len(taken_lidar) :], flat) > 0).numpy()
    occupied = np.zeros(len(boxes), bool)
    occupied[: len(taken_lidar)] = True
    kept = []
    for i, record in enumerate(candidates):
        if not (overlap[i] & occupied).any():
            occupied[len(taken_lidar) + i] = True
            kept.append(record)
    return kept
