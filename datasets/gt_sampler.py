"""The database of cut-out objects that object sampling draws from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anybev.datasets.infos import InfoError
from anybev.datasets.points import check_backend, read_points
from anybev.datasets.safe_pickle import load_pickle
from anybev.datasets.sample import SampleKey

_STREAM = 0x67746462


@dataclass(frozen=True)
class ObjectRecord:
    """One object of the database.

    Attributes:
        path: its points, file of float32 rows, relative to the box's bottom centre.
        label: index into the configured classes.
        box_lidar: (9,) float32 as ``Sample.boxes_lidar``.
        num_points: rows of the file.
        difficulty: as annotated; 0 in nuScenes.
    """

    path: Path
    label: int
    box_lidar: np.ndarray
    num_points: int
    difficulty: int


class DataBaseSampler:
    """Draws objects of each class, evenly, as a function of (seed, epoch, index).

    Each epoch shuffles every class's list. A sample's objects are the next ones after those of the
    sample before it in the data set, cyclically, so an epoch uses all objects about equally
    often, and no sample depends on what other workers did.

    Args:
        info_path: ``nuscenes_dbinfos_train.pkl``.
        data_root: folder that the paths in it start from.
        rate: share of the missing objects that is drawn.
        prepare: ``filter_by_difficulty`` (values to leave out) and ``filter_by_min_points`` (class
            -> fewest points).
        sample_groups: class -> how many objects a scene should have.
        classes: names in the order of the labels.
        points_loader: ``load_dim`` of the point files; other entries are not looked at.
        backend_args: None; files are read from disk.

    Raises:
        FileNotFoundError, UnsafePickleError: the database, see ``datasets.safe_pickle``.
        InfoError: an entry lacks a key or holds a value of another form.
        ValueError: an unknown class or rule.
    """

    def __init__(
        self,
        info_path: str | Path,
        data_root: str | Path,
        rate: float,
        prepare: Mapping[str, Any],
        sample_groups: Mapping[str, int],
        classes: Sequence[str],
        points_loader: Mapping[str, Any] | None = None,
        backend_args: None = None,
    ) -> None:
        check_backend("DataBaseSampler", backend_args)
        unknown = sorted(set(sample_groups) - set(classes))
        if unknown:
            raise ValueError(
                f"DataBaseSampler: sample_groups must name configured classes, got {unknown[0]!r}"
            )
        rules = sorted(set(prepare) - {"filter_by_difficulty", "filter_by_min_points"})
        if rules:
            raise ValueError(
                "DataBaseSampler: prepare must hold filter_by_difficulty and "
                f"filter_by_min_points, got {rules[0]!r}"
            )
        self.rate = rate
        self.load_dim = int((points_loader or {}).get("load_dim", 5))
        self.groups = [(list(classes).index(name), n) for name, n in sample_groups.items()]
        self.objects = self._load(Path(info_path), Path(data_root), list(classes), prepare)
        self._orders: dict[int, tuple[tuple[int, int], np.ndarray]] = {}

    def _load(
        self, info_path: Path, data_root: Path, classes: list[str], prepare: Mapping[str, Any]
    ) -> dict[int, list[ObjectRecord]]:
        content = load_pickle(info_path)
        if not isinstance(content, dict):
            raise InfoError(f"database: {info_path} must hold a dict, got {type(content).__name__}")
        refused = set(prepare.get("filter_by_difficulty", ()))
        fewest = prepare.get("filter_by_min_points", {})
        objects: dict[int, list[ObjectRecord]] = {}
        for label, _ in self.groups:
            name = classes[label]
            records = [
                _record(raw, label, data_root, f"{info_path}, {name}[{i}]")
                for i, raw in enumerate(content.get(name, ()))
            ]
            objects[label] = [
                r
                for r in records
                if r.difficulty not in refused and r.num_points >= fewest.get(name, 0)
            ]
        return objects

    def wanted(self, labels: np.ndarray) -> Iterator[tuple[int, int]]:
        """(label, count) of the objects missing in a scene, in the order of the groups."""
        for label, target in self.groups:
            missing = round(self.rate * (target - int((labels == label).sum())))
            if missing > 0 and self.objects[label]:
                yield label, missing

    def draw(self, label: int, count: int, key: SampleKey, seed: int = 0) -> list[ObjectRecord]:
        """``count`` objects of a class, fewer where the shuffled list ends.

        Args:
            label: index of the class.
            count: how many.
            key: epoch and place of the sample.
            seed: of the run.
        """
        records = self.objects[label]
        target = next(n for group, n in self.groups if group == label)
        order = self._order(label, seed, key.epoch)
        start = key.index * target % len(records)
        return [records[i] for i in order[start : start + count]]

    def _order(self, label: int, seed: int, epoch: int) -> np.ndarray:
        held = self._orders.get(label)
        if held is None or held[0] != (seed, epoch):
            rng = np.random.Generator(np.random.PCG64([seed, epoch, label, _STREAM]))
            held = ((seed, epoch), rng.permutation(len(self.objects[label])))
            self._orders[label] = held
        return held[1]

    def points_of(self, record: ObjectRecord) -> np.ndarray:
        """(P, 5) points of an object, where its box stands."""
        points = read_points(record.path, load_dim=self.load_dim).points
        points[:, :3] += record.box_lidar[:3]
        return points


def _record(raw: Any, label: int, data_root: Path, where: str) -> ObjectRecord:
    keys = ("path", "box3d_lidar", "num_points_in_gt", "difficulty")
    if not isinstance(raw, dict) or any(key not in raw for key in keys):
        raise InfoError(f"database: {where} must have the keys {', '.join(keys)}, got {raw!s:.60}")
    box = np.asarray(raw["box3d_lidar"], np.float32)
    if box.shape != (9,) or not np.isfinite(box).all():
        raise InfoError(f"database: {where}: box3d_lidar must be 9 finite numbers, got {box}")
    path = Path(str(raw["path"]))
    if path.is_absolute() or ".." in path.parts:
        raise InfoError(f"database: {where}: path must lie below the data root, got {path}")
    return ObjectRecord(
        data_root / path, label, box, int(raw["num_points_in_gt"]), int(raw["difficulty"])
    )
