"""Cuts every annotated object's points out of the train split, for object sampling."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anybev.datasets.infos import CATEGORIES, Progress, silent, write_pickle
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.points import SweepTransform
from anybev.datasets.sample import SampleKey
from anybev.datasets.transforms.base import Transform
from anybev.datasets.transforms.loading import (
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
)
from anybev.device.ops.points_in_boxes import points_in_boxes

Entries = list[dict[str, Any]]


def create_gt_database(
    root: str | Path,
    out: str | Path,
    *,
    extra_tag: str = "nuscenes",
    max_sweeps: int = 10,
    workers: int = 1,
    sweep_transform: SweepTransform = "reference",
    progress: Progress = silent,
) -> Path:
    """Write ``{extra_tag}_gt_database/*.bin`` and ``{extra_tag}_dbinfos_train.pkl``.

    A file holds the points of one valid object, from the key frame and its sweeps, relative to the
    centre of the box's bottom. Objects of other categories than the ten are left out: mmdetection3d
    files them under the last class. An older database is replaced when the new one is whole.

    Args:
        root: folder of the data set.
        out: folder of ``{extra_tag}_infos_train.pkl``; the database goes there too.
        extra_tag: start of the names.
        max_sweeps: earlier sweeps to take points from.
        workers: processes; the result does not depend on them.
        sweep_transform: as in training, see ``datasets.points``.
        progress: shows how far it is.

    Returns:
        The file that lists the objects.

    Raises:
        SampleError: a frame cannot be read.
    """
    root, out = Path(root).resolve(), Path(out).resolve()
    folder = out / f"{extra_tag}_gt_database"
    partial_folder = out / f".{extra_tag}_gt_database.part"
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    build = partial(
        _dataset, out / f"{extra_tag}_infos_train.pkl", root, max_sweeps, sweep_transform
    )
    objects: dict[str, Entries] = {name: [] for name in CATEGORIES}
    group = 0
    with progress("object database") as update:
        dataset = build()
        for done, entries in enumerate(_all_entries(build, dataset, partial_folder, workers), 1):
            for entry in entries:
                path = f"{folder.name}/{entry.pop('file')}"
                objects[entry["name"]].append({**entry, "path": path, "group_id": group})
                group += 1
            update(done, len(dataset))
    shutil.rmtree(folder, ignore_errors=True)
    partial_folder.rename(folder)
    listing = out / f"{extra_tag}_dbinfos_train.pkl"
    write_pickle(listing, {name: found for name, found in objects.items() if found})
    return listing


def _dataset(
    ann_file: Path, root: Path, max_sweeps: int, sweep_transform: SweepTransform
) -> NuScenesDataset:
    pipeline: list[Transform] = [
        LoadPointsFromFile(),
        LoadPointsFromMultiSweeps(
            max_sweeps,
            pad_empty_sweeps=True,
            remove_close=True,
            sweep_choice="nearest",
            sweep_transform=sweep_transform,
        ),
        LoadAnnotations3D(),
    ]
    return NuScenesDataset(ann_file, root, CATEGORIES, pipeline, test_mode=True)


def _all_entries(
    build: partial[NuScenesDataset], dataset: NuScenesDataset, folder: Path, workers: int
) -> Iterator[Entries]:
    """Entries of each frame, in order."""
    if workers <= 1:
        for i in range(len(dataset)):
            yield cut_objects(dataset, i, folder)
        return
    # Not fork: it would copy the locks of torch's thread pool.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(build, folder)
    ) as pool:
        yield from pool.map(_work, range(len(dataset)), chunksize=8)


_worker: tuple[NuScenesDataset, Path] | None = None


def _start_worker(build: partial[NuScenesDataset], folder: Path) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = (build(), folder)


def _work(index: int) -> Entries:
    if _worker is None:
        raise RuntimeError("object database: worker must be started by its pool, got a bare call")
    dataset, folder = _worker
    return cut_objects(dataset, index, folder)


def cut_objects(dataset: NuScenesDataset, index: int, folder: Path) -> Entries:
    """Write the objects of one frame below ``folder``.

    Returns:
        One entry an object that has points; ``file`` is its name in ``folder``.
    """
    frame = dataset.frames[index]
    sample = dataset[SampleKey(0, index)]
    points, boxes = sample.points_lidar_m, sample.boxes_lidar
    inside = points_in_boxes(
        torch.from_numpy(np.ascontiguousarray(points[:, :3])),
        torch.from_numpy(boxes[:, :7].copy()),
    )
    hit = inside.any(1).numpy()  # a few thousand of 400,000 points
    points, inside_hit = points[hit], inside.numpy()[hit]
    entries = []
    for i in np.flatnonzero(sample.labels >= 0).tolist():
        chosen = points[inside_hit[:, i]]
        if not len(chosen):
            continue
        chosen[:, :3] -= boxes[i, :3]
        name = dataset.classes[int(sample.labels[i])]
        file = f"{frame.sample_idx}_{name}_{i}.bin"
        chosen.tofile(folder / file)
        entries.append(
            {
                "name": name,
                "file": file,
                "image_idx": frame.sample_idx,
                "gt_idx": i,
                "box3d_lidar": boxes[i].astype(np.float32),  # an array, as mmdetection3d reads it
                "num_points_in_gt": len(chosen),
                "difficulty": 0,
            }
        )
    return entries
