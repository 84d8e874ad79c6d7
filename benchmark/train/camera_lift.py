"""What the cameras are worth on synthetic scenes, and what faults of the rig cost.

    python -m anybev.benchmark.train.camera_lift --data-root data/camera_lift

For each seed, one small model learns from lidar alone and one from lidar and cameras, both from
nothing, for equal steps over the same scenes; the camera branch first learned by itself to say from
the pictures which class stands where. The nuScenes devkit scores both. Motorcycle and bicycle share
one shape in the synthetic world and differ by colour: their mean AP shows what the cameras are
worth. Then the lidar-camera models are scored again with a faulty rig. Runs and scores that are
there already are kept, so an interrupted measurement goes on.
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
    write_data,
)
from anybev.device import current_backend

CONFIGS = {kind: Path(anybev.__file__).parent / path for kind, path in SMALL_CONFIGS.items()}
#: Many scenes, each seen twice: few would be learned by heart instead of the colours.
TRAIN_SCENES, VAL_SCENES, EPOCHS = 48, 12, 2
CAMERA_STEPS = 240
#: Steps between the points of the curve.
INTERVAL = 320
LIDAR_PARTS = ("pts_middle_encoder", "pts_backbone", "pts_neck", "bbox_head")
FAULTS: dict[str, dict[str, Any]] = {
    "cameras turned by 2 degrees": {"kind": "rotate", "degrees": 2.0},
    "cameras swapped": {"kind": "swap"},
    "pictures mirrored": {"kind": "mirror"},
    "pictures black": {"kind": "black"},
}


@dataclass(frozen=True)
class Run:
    """One training: which sensors, which seed, and where."""

    kind: str
    seed: int
    folder: Path

    @property
    def start(self) -> Path:
        """Weights of the camera branch."""
        return self.folder / "start.pth"

    @property
    def options(self) -> list[str]:
        """``--cfg-options`` of the training."""
        options = [
            f"train_cfg.max_epochs={EPOCHS}",
            f"train_cfg.val_interval={EPOCHS}",
            f"param_scheduler.0.total_steps={EPOCHS}",
            "default_hooks.checkpoint.by_epoch=False",
            f"default_hooks.checkpoint.interval={INTERVAL}",
        ]
        if self.kind == "lidar-cam":
            lacking = ",".join(f"'{part}'" for part in LIDAR_PARTS)
            options += [f"load_from={self.start}", f"load_from_may_lack=[{lacking}]"]
        return options

    def checkpoints(self) -> dict[int, Path]:
        """Steps -> checkpoint, in the order of the steps."""
        found = {int(path.stem.split("_")[1]): path for path in self.folder.glob("iter_*.pth")}
        return dict(sorted(found.items()))


def same_shape_ap(metrics: dict[str, float]) -> float:
    """Mean AP over the two classes that only colour tells apart."""
    return sum(metrics[f"AP/{name}"] for name in SAME_SHAPE) / len(SAME_SHAPE)


def _python(code: str, arguments: Sequence[str], log: Path, threads: int) -> None:
    """Run code in a process of its own.

    Raises:
        RuntimeError: it failed; names its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    if done.returncode:
        raise RuntimeError(f"camera_lift: a run must succeed, got {done.returncode}; see {log}")


_CAMERAS = """
import sys
from pathlib import Path
from anybev.demo import train_cameras
out, root, seed, steps = sys.argv[1:]
train_cameras(Path(out), Path(root), int(seed), int(steps))
"""
_TRAIN = "from anybev.engine.train import train; train()"
_TEST = "from anybev.engine.test import evaluate; evaluate()"


def train(run: Run, data_root: Path, threads: int) -> dict[str, float]:
    """Train and score one model, unless that is done."""
    done = run.folder / "metrics.json"
    if not done.is_file():
        amp = ["--amp"] if current_backend().fast_amp() else []
        arguments = [str(CONFIGS[run.kind]), *amp, "--work-dir", str(run.folder), "--cfg-options"]
        arguments += [*config_options(data_root, run.seed), *run.options]
        if run.kind == "lidar-cam":
            branch = [str(run.start), str(data_root), str(run.seed), str(CAMERA_STEPS)]
            _python(_CAMERAS, branch, run.folder / "cameras.out", threads)
        _python(_TRAIN, arguments, run.folder / "train.out", threads)
    metrics: dict[str, float] = json.loads(done.read_text())
    return metrics


def score(
    run: Run, checkpoint: Path, config: Path, folder: Path, data_root: Path, threads: int
) -> dict[str, float]:
    """Score a checkpoint with a config, unless that is done."""
    found = folder / "test_metrics.json"
    if not found.is_file():
        arguments = [str(config), str(checkpoint), "--work-dir", str(folder), "--cfg-options"]
        arguments += config_options(data_root, run.seed)
        _python(_TEST, arguments, folder / "test.out", threads)
    metrics: dict[str, float] = json.loads(found.read_text())
    return metrics


def with_fault(run: Run, name: str, data_root: Path, threads: int) -> dict[str, float]:
    """Score a trained lidar-camera model on a faulty rig."""
    folder = run.folder / "faults" / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "faulty.py"
    config.write_text(_faulty_config(CONFIGS[run.kind], FAULTS[name]))
    last = list(run.checkpoints().values())[-1]
    return score(run, last, config, folder, data_root, threads)


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


def curve(
    run: Run, final: dict[str, float], data_root: Path, threads: int
) -> list[tuple[int, float]]:
    """(steps, mean AP of the two classes) at each checkpoint; ``final`` scored the last one."""
    checkpoints = list(run.checkpoints().items())
    points = []
    for steps, path in checkpoints[:-1]:
        folder = run.folder / f"scored_{path.stem}"
        metrics = score(run, path, CONFIGS[run.kind], folder, data_root, threads)
        points.append((steps, same_shape_ap(metrics)))
    return [*points, (checkpoints[-1][0], same_shape_ap(final))]


def measure(
    data_root: Path, work_dir: Path, seeds: Sequence[int], jobs: int
) -> Iterator[dict[str, Any]]:
    """Rows of the measurement, one a run and one a fault."""
    threads = max(1, torch.get_num_threads() // jobs)
    runs = [Run(kind, seed, work_dir / f"{kind}_seed{seed}") for seed in seeds for kind in CONFIGS]
    joint = [run for run in runs if run.kind == "lidar-cam"]
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        # The longer trainings first.
        longest_first = sorted(runs, key=lambda run: run.kind != "lidar-cam")
        trained = pool.map(lambda run: train(run, data_root, threads), longest_first)
        scores = dict(zip(longest_first, trained, strict=True))
        print(f"trained in {time.monotonic() - start:.0f} s", file=sys.stderr)
        curves = pool.map(lambda run: curve(run, scores[run], data_root, threads), runs)
        for run, points in zip(runs, curves, strict=True):
            yield _row(run, "", scores[run]) | {"curve": points}
        pairs = [(run, name) for run in joint for name in FAULTS]
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
    flags.add_argument("--data-root", type=Path, default=Path("data/camera_lift"))
    flags.add_argument("--data-seed", type=int, default=0, help="of the scenes, where missing")
    flags.add_argument("--work-dir", type=Path, default=Path("work_dirs/camera_lift"))
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    flags.add_argument("--out", type=Path, help="JSON lines; default: WORK_DIR/camera_lift.jsonl")
    args = flags.parse_args(argv)
    write_data(args.data_root, args.data_seed, TRAIN_SCENES, VAL_SCENES)
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
