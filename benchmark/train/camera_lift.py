"""What the cameras are worth on synthetic scenes, and what faults of the rig cost.

    python -m anybev.benchmark.train.camera_lift --data-root data/demo_seed0

For each seed, a small lidar model is trained on synthetic scenes, and a camera branch that has to
say from the pictures which class stands where. From there, one model goes on with lidar alone and
one with lidar and cameras, for equal steps; the nuScenes devkit scores both. Motorcycle and bicycle
share one shape in the synthetic world and differ by colour: their mean AP shows what the cameras
are worth. Then the lidar-camera models are scored again with a faulty rig. Runs that are there
already are kept, so an interrupted measurement goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import anybev
from anybev.benchmark.ops.harness import machine
from anybev.demo import (
    SAME_SHAPE,
    SMALL_CONFIGS,
    config_options,
    train_cameras,
    write_data,
)
from anybev.device import current_backend

CONFIGS = {kind: Path(anybev.__file__).parent / path for kind, path in SMALL_CONFIGS.items()}
#: Of the second stage, with and without cameras; the first is as long as the config says.
SECOND_EPOCHS = 2
CAMERA_STEPS = 240
FAULTS: dict[str, dict[str, Any]] = {
    "cameras turned by 2 degrees": {"kind": "rotate", "degrees": 2.0},
    "cameras swapped": {"kind": "swap"},
    "pictures mirrored": {"kind": "mirror"},
    "pictures black": {"kind": "black"},
}


@dataclass(frozen=True)
class Run:
    """One training: which sensors, which seed, where, and what else."""

    kind: str
    seed: int
    folder: Path
    more: tuple[str, ...] = ()

    @property
    def metrics_file(self) -> Path:
        """Written when the training is finished."""
        return self.folder / "metrics.json"

    @property
    def start(self) -> Path:
        """A first stage's weights with those of a camera branch."""
        return self.folder / "start.pth"

    @property
    def checkpoint(self) -> Path:
        """The newest one; there is one once the training is finished."""
        return max(self.folder.glob("epoch_*.pth"), key=lambda path: path.stat().st_mtime)


def same_shape_ap(metrics: dict[str, float]) -> float:
    """Mean AP over the two classes that only colour tells apart."""
    return sum(metrics[f"AP/{name}"] for name in SAME_SHAPE) / len(SAME_SHAPE)


def _call(module: str, arguments: Sequence[str], log: Path, threads: int) -> None:
    """Run a training or an evaluation in a process of its own.

    Raises:
        RuntimeError: it failed; names its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    code = f"from anybev.engine.{module} import {_MAIN[module]} as main; main()"
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    if done.returncode:
        raise RuntimeError(
            f"camera_lift: {module} must succeed, got status {done.returncode}; see {log}"
        )


_MAIN = {"train": "train", "test": "evaluate"}


def train(run: Run, data_root: Path, threads: int) -> dict[str, Any]:
    """Train and score one model, unless that is done; evaluates after every epoch."""
    if not run.metrics_file.is_file():
        amp = ["--amp"] if current_backend().fast_amp() else []
        options = [*config_options(data_root, run.seed), "train_cfg.val_interval=1", *run.more]
        arguments = [str(CONFIGS[run.kind]), *amp, "--work-dir", str(run.folder)]
        log = run.folder / "train.out"
        _call("train", [*arguments, "--cfg-options", *options], log, threads)
    metrics: dict[str, Any] = json.loads(run.metrics_file.read_text())
    return metrics


def with_fault(run: Run, name: str, data_root: Path, threads: int) -> dict[str, Any]:
    """Score a trained lidar-camera model on a faulty rig."""
    folder = run.folder / "faults" / name.replace(" ", "_")
    found = folder / "test_metrics.json"
    if not found.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "faulty.py"
        config.write_text(_faulty_config(CONFIGS[run.kind], FAULTS[name]))
        arguments = [str(config), str(run.checkpoint), "--work-dir", str(folder), "--cfg-options"]
        options = config_options(data_root, run.seed)
        _call("test", [*arguments, *options], folder / "test.out", threads)
    metrics: dict[str, Any] = json.loads(found.read_text())
    return metrics


def _faulty_config(base: Path, fault: dict[str, Any]) -> str:
    """A config whose test pipeline has the fault behind the loading of images."""
    from mmengine.config import Config

    pipeline = Config.fromfile(str(base)).test_dataloader.dataset.pipeline
    steps = [dict(step) for step in pipeline]
    after = next(i for i, step in enumerate(steps) if step["type"] == "ImageAug3D") + 1
    steps.insert(after, {"type": "CameraFault", **fault})
    return (
        f"_base_ = [{str(base)!r}]\n"
        "custom_imports = dict(imports=['anybev.testing.camera_faults'])\n"
        f"test_dataloader = dict(dataset=dict(pipeline={steps!r}))\n"
    )


def curve(run: Run) -> list[tuple[int, float]]:
    """(steps, mean AP of the two classes) after each epoch of a run."""
    logs = sorted(run.folder.glob("*/vis_data/scalars.json"))
    points, steps = [], 0
    for line in logs[-1].read_text().splitlines() if logs else []:
        row = json.loads(line)
        if f"AP/{SAME_SHAPE[0]}" in row:
            points.append((steps, same_shape_ap(row)))
        elif "loss" in row:
            steps = int(row["step"])
    return points


def joined(
    first: Sequence[tuple[int, float]], second: Sequence[tuple[int, float]]
) -> list[tuple[int, float]]:
    """One curve of two stages; the second counts its steps from 0."""
    offset = first[-1][0] if first else 0
    return [*first, *((steps + offset, score) for steps, score in second)]


def _second(kind: str, first: Run, work_dir: Path) -> Run:
    """What goes on from a first stage."""
    start = first.checkpoint if kind == "lidar" else first.start
    more = [
        f"load_from={start}",
        f"train_cfg.max_epochs={SECOND_EPOCHS}",
        f"param_scheduler.0.total_steps={SECOND_EPOCHS}",
    ]
    return Run(kind, first.seed, work_dir / f"{kind}_seed{first.seed}", tuple(more))


def measure(
    data_root: Path, work_dir: Path, seeds: Sequence[int], jobs: int
) -> Iterator[dict[str, Any]]:
    """Rows of the measurement, one a run and one a fault."""
    threads = max(1, torch.get_num_threads() // jobs)
    firsts = [Run("lidar", seed, work_dir / f"first_seed{seed}") for seed in seeds]
    with ThreadPoolExecutor(jobs) as pool:
        start = time.monotonic()
        list(pool.map(lambda run: train(run, data_root, threads), firsts))
        for first in firsts:
            train_cameras(first.checkpoint, first.start, data_root, first.seed, CAMERA_STEPS)
        runs = [
            _second(kind, first, work_dir)
            for kind in reversed(CONFIGS)  # the longer trainings first
            for first in firsts
        ]
        scores = list(pool.map(lambda run: train(run, data_root, threads), runs))
        print(f"trained in {time.monotonic() - start:.0f} s", file=sys.stderr)
        before = {first.seed: curve(first) for first in firsts}
        for run, metrics in zip(runs, scores, strict=True):
            yield _row(run, "", metrics) | {"curve": joined(before[run.seed], curve(run))}
        pairs = [(run, name) for run in runs if run.kind == "lidar-cam" for name in FAULTS]
        faulty = pool.map(lambda p: with_fault(p[0], p[1], data_root, threads), pairs)
        for (run, name), metrics in zip(pairs, faulty, strict=True):
            yield _row(run, name, metrics)


def _row(run: Run, fault: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": run.kind,
        "seed": run.seed,
        "fault": fault,
        "same_shape_ap": same_shape_ap(metrics),
        **{key: metrics[key] for key in ("NDS", "mAP", "FPS")},
        **{key: value for key, value in metrics.items() if key.startswith("AP/")},
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lift of each seed and its mean; what each fault costs on average."""
    whole = {(r["kind"], r["seed"]): r for r in rows if not r["fault"]}
    seeds = sorted({r["seed"] for r in rows})
    lifts = [
        whole["lidar-cam", s]["same_shape_ap"] - whole["lidar", s]["same_shape_ap"] for s in seeds
    ]
    costs = {}
    for name in FAULTS:
        faulty = [r for r in rows if r["fault"] == name]
        costs[name] = {
            key: sum(whole["lidar-cam", r["seed"]][key] - r[key] for r in faulty) / len(faulty)
            for key in ("same_shape_ap", "mAP", "NDS")
        }
    return {"seeds": seeds, "lifts": lifts, "mean_lift": sum(lifts) / len(lifts), "costs": costs}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, write the rows, print the summary."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--data-root", type=Path, default=Path("data/demo_seed0"))
    flags.add_argument("--data-seed", type=int, default=0, help="of the scenes, where missing")
    flags.add_argument("--work-dir", type=Path, default=Path("work_dirs/camera_lift"))
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    flags.add_argument("--out", type=Path, help="JSON lines; default: WORK_DIR/camera_lift.jsonl")
    args = flags.parse_args(argv)
    write_data(args.data_root, args.data_seed)
    out = args.out or args.work_dir / "camera_lift.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = machine()
    rows = []
    with out.open("w") as stream:
        for row in measure(args.data_root, args.work_dir, args.seeds, args.jobs):
            rows.append(row)
            print(json.dumps({**row, "machine": facts}), file=stream, flush=True)
        result = summary(rows)
        print(json.dumps({"summary": result, "machine": facts}), file=stream)
    print(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main()
