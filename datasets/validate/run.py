"""Validation of a data set in nuScenes' layout: its tables, its info files, and what they name."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from anybev.datasets.infos import CATEGORIES, InfoError, Progress, load_infos, silent
from anybev.datasets.nuscenes_infos import frame_info
from anybev.datasets.nuscenes_tables import NuScenesTables, Record
from anybev.datasets.validate import tables as table_checks
from anybev.datasets.validate.content import (
    Depth,
    FileIndex,
    check_content,
    check_files,
    check_image_sizes,
    check_rate,
)
from anybev.datasets.validate.findings import Log, Report, rows_of
from anybev.datasets.validate.frame_checks import check_frame, check_velocities
from anybev.datasets.validate.frames import Frame, read_frame

VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
MAX_SWEEPS = 10
#: Point files that are read, spread over the frames, unless the depth is ``full``.
SAMPLED_FRAMES = 1000
_CATEGORY_IDS = {name: number for number, name in enumerate(CATEGORIES)}


@dataclass
class _Data:
    """What the sources gave: frames, by the source that has them.

    Attributes:
        sources: names of tables and info files.
        frames: of each source, those that are whole.
        from_tables: what the tables say of a frame, by token.
        sizes: of pictures, by token and camera.
        scenes: name of the scene, by token.
    """

    sources: list[str] = field(default_factory=list)
    frames: dict[str, list[Frame]] = field(default_factory=dict)
    from_tables: dict[str, Record] = field(default_factory=dict)
    sizes: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    scenes: dict[str, str] = field(default_factory=dict)


def validate(
    root: str | Path,
    *,
    version: str | None = None,
    ann_files: Sequence[str | Path] = (),
    depth: Depth = "default",
    workers: int = 2,
    progress: Progress = silent,
) -> Report:
    """Check a data set before anyone trains on it.

    Args:
        root: its folder.
        version: folder of the tables; None takes those that are there.
        ann_files: v2 info files, relative to ``root`` or to here; none given takes those in
            ``root``, and given ones without a version leave the tables alone unless they are there.
        depth: ``fast`` opens no point file and no picture; ``default`` opens pictures' headers and
            the points of up to 1000 frames; ``full`` decodes and reads everything.
        workers: threads that read files; the report does not depend on it.
        progress: shows how far it is.

    Returns:
        What was looked at and found.

    Raises:
        FileNotFoundError: there is neither a table nor an info file, or one that was asked for is
            missing.
        ValueError: a wrong argument.
    """
    start = time.monotonic()
    if depth not in get_args(Depth):
        raise ValueError(f"validate: depth must be fast, default or full, got {depth!r}")
    if workers < 1:
        raise ValueError(f"validate: workers must be 1 or more, got {workers}")
    root = Path(root)
    versions, infos = _sources(root, version, ann_files)
    log, data, index = Log(), _Data(), FileIndex(root)
    for name in versions:
        _read_tables(root, name, data, index, log, progress)
    for path in infos:
        _read_infos(path, data, log, progress)
    _check_tokens(data, log)
    _check_frames(data, index, depth, workers, log, progress)
    seconds = time.monotonic() - start
    return Report(str(root), tuple(data.sources), depth, rows_of(log), tuple(log.notes), seconds)


def _sources(
    root: Path, version: str | None, ann_files: Sequence[str | Path]
) -> tuple[list[str], list[Path]]:
    if not root.is_dir():
        raise FileNotFoundError(f"validate: {root} must be the folder of a data set, got none")
    if version is not None and not (root / version).is_dir():
        raise FileNotFoundError(
            f"validate: {root / version} must be the folder of the tables, got none; try another "
            "--version"
        )
    versions = [version] if version else [name for name in VERSIONS if (root / name).is_dir()]
    infos = []
    for name in ann_files:
        candidates = [path for path in (root / name, Path(name)) if path.is_file()]
        if not candidates:
            raise FileNotFoundError(f"validate: {name} must be an info file, got none in {root}")
        infos.append(candidates[0])
    if not ann_files:
        infos = sorted(root.glob("*_infos_*.pkl"))
        if version is not None:
            infos = [path for path in infos if _fits(path, version)]
    if not versions and not infos:
        raise FileNotFoundError(
            f"validate: {root} must hold tables ({', '.join(VERSIONS)}) or info files "
            "(*_infos_*.pkl), got neither; try --ann-file"
        )
    return versions, infos


def _fits(path: Path, version: str) -> bool:
    """Whether an info file's split can belong to the tables."""
    return path.stem.endswith("_test") == (version == "v1.0-test")


def _read_tables(
    root: Path, version: str, data: _Data, index: FileIndex, log: Log, progress: Progress
) -> None:
    with progress(f"tables of {version}") as update:
        rows = table_checks.read_tables(root, version, log)
        update(1, 2)
        data.sources.append(version)
        if rows is None:
            log.notes.append(f"{version}: a table cannot be read, so frames were not looked at")
            return
        clean = table_checks.check_tables(rows, version, log)
        tables = NuScenesTables(root, version, clean)
        update(2, 2)
    samples = {sample["token"]: sample for sample in clean["sample"]}
    scenes = {
        scene["name"]: list(table_checks.samples_of(scene, samples)) for scene in tables.scenes()
    }
    here = {name: chain for name, chain in scenes.items() if _on_disk(tables, chain, index)}
    if not here:
        log.look("files.points")
        log.find("files.points", version, "no lidar file of any scene is there")
    elif len(here) < len(scenes):
        log.notes.append(f"{version}: {len(here)} of {len(scenes)} scenes are on disk")
    frames: list[Frame] = []
    with progress(f"frames of {version}") as update:
        total, done = sum(map(len, here.values())), 0
        for name, chain in here.items():
            for sample in table_checks.check_sensors(tables, chain, log):
                frames += _from_tables(tables, sample, len(frames), name, data, log)
            done += len(chain)
            update(done, total)
    data.frames[version] = frames


def _on_disk(tables: NuScenesTables, chain: list[Record], index: FileIndex) -> bool:
    """Whether any key sweep of a scene is there: part of the data set comes with all tables."""
    for sample in chain:
        lidar = tables.key_frame_data[sample["token"]].get("LIDAR_TOP")
        if lidar is not None and index.lidar(lidar["filename"]):
            return True
    return False


def _from_tables(
    tables: NuScenesTables, sample: Record, number: int, scene: str, data: _Data, log: Log
) -> list[Frame]:
    where = f"{tables.version} {scene}, sample {sample['token']}"
    token = sample["token"]
    data.sizes[token] = table_checks.image_sizes(tables, sample)
    data.scenes[token] = scene
    try:
        raw = frame_info(tables, sample, number, MAX_SWEEPS)
    except ValueError as error:
        log.find("infos.form", where, str(error))
        return []
    data.from_tables[token] = raw
    frame = read_frame(
        raw, where, log, categories=_CATEGORY_IDS, sizes=data.sizes[token], scene=scene
    )
    return [frame] if frame else []


def _read_infos(path: Path, data: _Data, log: Log, progress: Progress) -> None:
    log.look("infos.file")
    data.sources.append(path.name)
    try:
        infos = load_infos(path)
        categories = _categories(path, infos["metainfo"]["categories"])
    except (OSError, ValueError) as error:
        log.find("infos.file", path.name, str(error))
        return
    frames, raws = [], infos["data_list"]
    if not raws:
        log.notes.append(f"{path.name} holds no frame")
    with progress(f"frames of {path.name}") as update:
        for i, raw in enumerate(raws):
            token = raw.get("token", "") if isinstance(raw, dict) else ""
            frame = read_frame(
                raw,
                f"{path.name} frame {i} ({token})",
                log,
                categories=categories,
                sizes=data.sizes.get(token) if isinstance(token, str) else None,
                scene=data.scenes.get(token, "") if isinstance(token, str) else "",
            )
            if frame is not None:
                frames.append(frame)
                check_frame(frame, log)
                _compare(frame, data, log)
            update(i + 1, len(raws))
    _check_order(path.name, frames, log)
    check_velocities(path.name, frames, log)
    data.frames[path.name] = frames


def _categories(path: Path, found: Mapping[Any, Any]) -> Mapping[str, int]:
    if not found or not all(isinstance(k, str) and isinstance(v, int) for k, v in found.items()):
        raise InfoError(f"infos: {path}: metainfo.categories must map names to ids, got {found!r}")
    return found


def _compare(frame: Frame, data: _Data, log: Log) -> None:
    if not data.from_tables:
        return
    log.look("infos.tables")
    theirs = data.from_tables.get(frame.token)
    what = (
        "its token is in no scene of the tables that is on disk"
        if theirs is None
        else table_checks.difference(frame, theirs)
    )
    if what:
        log.find("infos.tables", frame.where, what)


def _check_order(source: str, frames: list[Frame], log: Log) -> None:
    """Frames of a scene, where the tables tell the scene, must come in time."""
    for before, after in pairwise(frames):
        if before.scene and before.scene == after.scene:
            log.look("time.order")
            if after.timestamp_s <= before.timestamp_s:
                log.find(
                    "time.order",
                    after.where,
                    f"timestamp {after.timestamp_s:.6f} must be after the frame before it in "
                    f"{after.scene}, got {before.timestamp_s:.6f}",
                )


def _check_tokens(data: _Data, log: Log) -> None:
    first: dict[str, str] = {}
    for source, frames in data.frames.items():
        if source in VERSIONS:
            continue
        for frame in frames:
            log.look("infos.tokens")
            if frame.token in first:
                what = f"token occurs already: {first[frame.token]}"
                log.find("infos.tokens", frame.where, what)
            else:
                first[frame.token] = frame.where


def _check_frames(
    data: _Data, index: FileIndex, depth: Depth, workers: int, log: Log, progress: Progress
) -> None:
    chosen: dict[str, Frame] = {}
    # An info file's frame comes before that of the tables: it is what training reads.
    for source in sorted(data.frames, key=lambda name: name in VERSIONS):
        for frame in data.frames[source]:
            if source in VERSIONS and frame.token not in chosen:
                check_frame(frame, log)
            chosen.setdefault(frame.token, frame)
        if source in VERSIONS:
            check_velocities(source, data.frames[source], log)
    frames = list(chosen.values())
    pictures = any(index.image(camera) for frame in frames for camera in frame.cameras)
    if any(frame.cameras for frame in frames) and not pictures:
        log.notes.append("no picture is there: fine for lidar alone, not for cameras")
    with progress("files") as update:
        check_files(frames, index, log, with_images=pictures)
        update(1, 1)
    if depth != "fast":
        _open_files(frames, index, depth, workers, log, progress)
    boxes = sum(len(frame.boxes) for frame in frames)
    if boxes:
        empty = sum(int((frame.num_lidar_pts == 0).sum()) for frame in frames)
        log.notes.append(f"{empty} of {boxes} boxes ({empty / boxes:.1%}) hold no lidar point")
        _note_classes(frames, log)


def _note_classes(frames: list[Frame], log: Log) -> None:
    counts: Counter[str] = Counter()
    for frame in frames:
        names = {label: name for name, label in frame.categories.items()}
        counts.update(names.get(label, "of no class") for label in frame.labels.tolist())
    shown = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    log.notes.append(f"boxes: {shown}")


def _open_files(
    frames: list[Frame],
    index: FileIndex,
    depth: Depth,
    workers: int,
    log: Log,
    progress: Progress,
) -> None:
    every = 1 if depth == "full" else max(1, -(-len(frames) // SAMPLED_FRAMES))
    if every > 1:
        log.notes.append(f"points of every {every}th frame were read; --full reads all")
    contents = []
    with progress("contents of files") as update, ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(
            lambda item: check_content(item[1], index, depth, points=item[0] % every == 0),
            enumerate(frames),
        )
        for content in jobs:
            contents.append(content)
            update(len(contents), len(frames))
    log.merge(content.log for content in contents)
    check_image_sizes(frames, contents, log)
    check_rate(log)
