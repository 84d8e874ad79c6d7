"""Writes a synthetic data set in nuScenes' on-disk layout.

``samples/``, ``sweeps/``, ``maps/`` and ``v1.0-trainval/`` as the devkit reads them. A marker file
records what the folder was written from; while writing, ``.parts/`` holds the finished scenes, so
an interrupted run goes on where it stopped. The tables come last: a folder that has them is whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anybev.datasets.synthetic import rig
from anybev.datasets.synthetic.layout import build_world
from anybev.datasets.synthetic.lidar import Scanner
from anybev.datasets.synthetic.tables import (
    MAP_FILE,
    TABLE_NAMES,
    VERSION,
    KeyFrameCounts,
    Tables,
    file_name,
    scene_tables,
    shared_tables,
    timestamp_us,
)
from anybev.datasets.synthetic.world import (
    SWEEPS_PER_KEY_FRAME,
    World,
    key_frame_times,
    sweep_times,
)
from anybev.files import write_json

MARKER = "anybev_synthetic.json"
# Raised whenever the same seed gives other data.
WORLD_VERSION = 1
CAMERA_SCALES = (0.05, 2.0)
_PARTS = ".parts"
_OWNED = ("samples", "sweeps", "maps", VERSION, _PARTS)


def write_nuscenes(
    out: Path,
    *,
    scenes: int,
    val_scenes: int,
    seed: int,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
    cameras: bool = True,
    camera_scale: float = 1.0,
) -> None:
    """Write synthetic scenes that nuscenes-devkit reads as version v1.0-trainval.

    The scenes carry official names, so ``nuscenes.utils.splits`` sorts them into train and val.
    A scene depends on the seed and its own number alone: more scenes or more workers leave the
    others as they are. The same arguments on a finished folder do nothing; on an unfinished one
    they finish it. One scene takes about 105 MB and its 120 pictures 24 MB more (at full size).

    Args:
        out: folder of the data set; created, or empty, or one that this function wrote.
        scenes: training scenes, of 20 key frames each (at most 700).
        val_scenes: validation scenes (at most 150).
        seed: non-negative.
        workers: processes.
        progress: called with (scenes done, scenes in all).
        overwrite: replace a data set that this function wrote from other arguments.
        cameras: write the pictures; without them the tables still describe them.
        camera_scale: size of the pictures relative to 1600 x 900, 0.05 to 2; the intrinsics in the
            tables scale with it.

    Raises:
        TypeError, ValueError: a wrong argument.
        RuntimeError: ``out`` holds something else.
    """
    _check_numbers(scenes=scenes, val_scenes=val_scenes, seed=seed, workers=workers)
    names = _scene_names(scenes, val_scenes)
    pictures = _check_cameras(cameras, camera_scale)
    request: dict[str, Any] = {
        "world": WORLD_VERSION,
        "seed": seed,
        "scenes": scenes,
        "val_scenes": val_scenes,
        "cameras": cameras,
        "camera_scale": pictures.scale,
    }
    out = Path(out)
    if _prepare(out, request, overwrite=overwrite):
        if progress:
            progress(len(names), len(names))
        return
    for folder in _folders():
        (out / folder).mkdir(parents=True, exist_ok=True)
    for done, _ in enumerate(_run(out, names, seed, workers, pictures), 1):
        if progress:
            progress(done, len(names))
    _write_map(out / MAP_FILE)
    _write_tables(out, names, seed, pictures)
    shutil.rmtree(out / _PARTS)


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        low = 1 if name == "workers" else 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"write_nuscenes: {name} must be an int, got {value!r}")
        if value < low:
            raise ValueError(f"write_nuscenes: {name} must be at least {low}, got {value}")


class _Pictures(NamedTuple):
    """Whether pictures are written, and their size."""

    wanted: bool = True
    scale: float = 1.0


def _number(name: str) -> int:
    return int(name.removeprefix("scene-"))


def _check_cameras(cameras: bool, camera_scale: float) -> _Pictures:
    if not isinstance(cameras, bool):
        raise TypeError(f"write_nuscenes: cameras must be a bool, got {cameras!r}")
    if isinstance(camera_scale, bool) or not isinstance(camera_scale, (int, float)):
        raise TypeError(f"write_nuscenes: camera_scale must be a number, got {camera_scale!r}")
    low, high = CAMERA_SCALES
    if not low <= camera_scale <= high:
        raise ValueError(
            f"write_nuscenes: camera_scale must be from {low} to {high}, got {camera_scale}"
        )
    return _Pictures(cameras, float(camera_scale))


def _scene_names(scenes: int, val_scenes: int) -> list[str]:
    # Here, not at the top: the devkit's import takes seconds, and workers do not need it.
    from nuscenes.utils import splits

    for name, count, official in (
        ("scenes", scenes, splits.train),
        ("val_scenes", val_scenes, splits.val),
    ):
        if count > len(official):
            raise ValueError(
                f"write_nuscenes: {name} must be at most {len(official)}, the official names, "
                f"got {count}"
            )
    if scenes + val_scenes == 0:
        raise ValueError("write_nuscenes: scenes + val_scenes must be at least 1, got 0")
    return [*splits.train[:scenes], *splits.val[:val_scenes]]


def _prepare(out: Path, request: dict[str, Any], *, overwrite: bool) -> bool:
    """Claim the folder; True when it already holds what is asked for."""
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise RuntimeError(f"write_nuscenes: out must be a folder, got the file {out}")
    if out.is_dir() and any(out.iterdir()):
        if not marker.is_file():
            raise RuntimeError(
                f"write_nuscenes: out must be new, empty or written by this command, got {out} "
                f"with other files in it; try another folder"
            )
        held = _read_json(marker)
        if held == request:
            return (out / VERSION).is_dir()
        if not overwrite:
            raise RuntimeError(
                f"write_nuscenes: out must hold no other data set, got {out} written from {held}; "
                "try another folder, or overwrite it"
            )
        # The tables go first: without them nothing takes the remains for a data set.
        for name in (VERSION, *_OWNED):
            if (out / name).exists():
                shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, request)
    return False


def _folders() -> list[str]:
    channels = [rig.LIDAR, *(c.channel for c in rig.CAMERAS)]
    return [*(f"samples/{c}" for c in channels), f"sweeps/{rig.LIDAR}", "maps", _PARTS]


def _run(
    out: Path, names: list[str], seed: int, workers: int, pictures: _Pictures
) -> Iterator[str]:
    """Write the missing scenes; yields each name when it is on disk."""
    missing = []
    for name in names:
        if (out / _PARTS / f"{name}.json").is_file():
            yield name
        else:
            missing.append(name)
    if workers == 1 or len(missing) == 1:
        for name in missing:
            yield _write_scene(out, name, seed, pictures)
        return
    # "spawn": a fork of a process with running threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(1, len(missing))), mp_context=context) as pool:
        jobs = [pool.submit(_write_scene, out, name, seed, pictures) for name in missing]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_scene(out: Path, name: str, seed: int, pictures: _Pictures) -> str:
    number = _number(name)
    world = build_world(seed, number)
    scanner = Scanner(world)
    counts = []
    for i, t in enumerate(sweep_times()):
        key = i % SWEEPS_PER_KEY_FRAME == 0
        rng = np.random.default_rng([seed, number, 1_000_000 + i])
        sweep = scanner.sweep(float(t), rng, occlusion=key)
        path = out / file_name(name, rig.LIDAR, timestamp_us(number, float(t)), key=key)
        sweep.points_lidar_m.tofile(path)
        if key:
            points = sweep.points_on(len(world.objects))
            counts.append(KeyFrameCounts(points, sweep.cast.seen, sweep.cast.alone))
    if pictures.wanted:
        _write_pictures(out, name, seed, world, pictures.scale)
    rows = scene_tables(seed, name, number, world, counts, pictures.scale)
    write_json(out / _PARTS / f"{name}.json", rows)
    return name


def _write_pictures(out: Path, name: str, seed: int, world: World, scale: float) -> None:
    # Here, not at the top: the renderer loads torch, and data sets without pictures do not need it.
    from anybev.datasets.synthetic.camera import Photographer, save_jpeg

    number = _number(name)
    photographer = Photographer(world, scale)
    for index, camera in enumerate(rig.CAMERAS):
        for k, key_time in enumerate(key_frame_times()):
            t = float(key_time - camera.lead_s)
            path = out / file_name(name, camera.channel, timestamp_us(number, t), key=True)
            picture = photographer.shoot(camera, t, (seed, number, index, k))
            save_jpeg(picture.image_rgb, path)


def _write_tables(out: Path, names: Iterable[str], seed: int, pictures: _Pictures) -> None:
    tables: Tables = shared_tables(seed, pictures.scale)
    for name in names:
        for table, rows in _read_json(out / _PARTS / f"{name}.json").items():
            tables[table] += rows
    tables["map"][0]["log_tokens"] = [log["token"] for log in tables["log"]]
    building = out / _PARTS / VERSION
    building.mkdir(exist_ok=True)
    for table in TABLE_NAMES:
        write_json(building / f"{table}.json", tables[table])
    os.replace(building, out / VERSION)


def _write_map(path: Path) -> None:
    """A map mask without content that covers the scenes: 800 m x 800 m at 0.1 m a pixel."""
    from PIL import Image

    Image.new("L", (8000, 8000)).save(path)


def _read_json(path: Path) -> Any:
    with path.open(encoding="utf-8") as stream:
        return json.load(stream)
