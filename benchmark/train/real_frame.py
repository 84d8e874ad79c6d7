"""Full-size BEVFusion on one real nuScenes frame on this machine: seconds a phase, peak memory.

    python -m anybev.benchmark.train.real_frame --data nuscenes_frame --out real_frame.json

Predicting and training (losses and their gradients, training mode, no optimizer step) run in a
process each, so that each has a peak of its own. With --baseline, a file of the same layout from
another implementation on this machine, its figures stand beside ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

import anybev
from anybev import envs
from anybev.benchmark.ops.harness import machine
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.sample import Batch, collate
from anybev.datasets.transforms import (
    BEVLoadMultiViewImageFromFiles,
    ImageAug3D,
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
    ObjectNameFilter,
    ObjectRangeFilter,
    PointsRangeFilter,
)
from anybev.device import get_backend
from anybev.engine.builder import build_detector
from anybev.files import write_json

CONFIGS = {
    "lidar_only": "bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
    "lidar_cam": "bevfusion_lidar-cam_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
}
MODES = ("predict", "train")
_PHASES = {
    "swin": "img_backbone",
    "img_neck": "img_neck",
    "view_transform": "view_transform",
    "voxelise": "data_preprocessor.pts_voxel_layer",
    "sparse_encoder": "pts_middle_encoder",
    "fusion": "fusion_layer",
    "second": "pts_backbone",
    "fpn": "pts_neck",
    "head": "bbox_head",
}


def load_config(model: str) -> Config:
    """The full-size config of ``lidar_only`` or ``lidar_cam``."""
    folder = Path(anybev.__file__).parent / "configs" / "bevfusion"
    return Config.fromfile(folder / CONFIGS[model])


def load_frame(folder: Path, config: Config) -> Batch:
    """The frame in ``folder`` (one info file, flat) as a batch of one, without augmentation."""
    (info,) = folder.glob("*.pkl")
    region = config.detection_range
    image_size = config.model.get("view_transform", {}).get("image_size")
    pipeline: list[Any] = [
        LoadPointsFromFile(load_dim=5, use_dim=5),
        LoadPointsFromMultiSweeps(9, pad_empty_sweeps=True, remove_close=True),
        LoadAnnotations3D(),
        PointsRangeFilter(region),
        ObjectRangeFilter(region),
        ObjectNameFilter(config.class_names),
    ]
    if image_size:
        still: dict[str, Any] = {"bot_pct_lim": (0.0, 0.0), "rot_lim": (0.0, 0.0)}
        resize = ImageAug3D(image_size, (0.48, 0.48), rand_flip=False, is_train=False, **still)
        pipeline[:0] = [BEVLoadMultiViewImageFromFiles(), resize]
    dataset = NuScenesDataset(
        info,
        folder,
        config.class_names,
        pipeline,
        data_prefix={"pts": "", "sweeps": "", "img": ""},
        modality={"use_lidar": True, "use_camera": bool(image_size)},
    )
    return collate([dataset[0]])


class Clock:
    """Seconds that each phase of a detector takes, a list a phase."""

    def __init__(self, detector: nn.Module) -> None:
        self.seconds: dict[str, list[float]] = {}
        modules = dict(detector.named_modules())
        for phase, path in _PHASES.items():
            if path in modules:
                self._time(phase, modules[path])

    def _time(self, phase: str, module: nn.Module) -> None:
        started: list[float] = []
        module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
        module.register_forward_hook(
            lambda *_: self.add(phase, time.perf_counter() - started.pop())
        )

    def add(self, phase: str, seconds: float) -> None:
        """Note one more run of a phase."""
        self.seconds.setdefault(phase, []).append(seconds)

    def timed(self, phase: str, run: Callable[[], Any]) -> Any:
        """The result of ``run``, which is a phase."""
        started = time.perf_counter()
        result = run()
        self.add(phase, time.perf_counter() - started)
        return result

    def medians(self) -> dict[str, float]:
        """Median of each phase, the first run (warm-up) left out where there are more."""
        return {
            phase: statistics.median(seconds[1:] or seconds)
            for phase, seconds in self.seconds.items()
        }


def measure(mode: str, model: str, folder: Path, runs: int) -> dict[str, Any]:
    """One warm-up and ``runs`` passes of ``predict`` or ``train`` in this process."""
    torch.manual_seed(0)
    config = load_config(model)
    frame = load_frame(folder, config)
    detector: Any = build_detector(config.model).train(mode == "train")
    clock = Clock(detector)

    def predict() -> None:
        with torch.no_grad():
            detector.predict(frame)

    def train() -> None:
        losses = clock.timed("forward_loss", lambda: detector.loss(frame))
        total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
        clock.timed("backward", total.backward)

    for _ in range(runs + 1):
        detector.zero_grad()
        clock.timed("total", predict if mode == "predict" else train)
    return {
        "median_s": clock.medians(),
        "totals_s": clock.seconds["total"],
        "max_rss_gb": get_backend("cpu").peak_memory_mib() / 1024,
        "points": len(frame.points_lidar_m[0]),
        "threads": torch.get_num_threads(),
    }


def report(results: dict[str, dict[str, Any]], baseline: Path | None) -> dict[str, Any]:
    """What is written: ours, the machine, and the other side's figures with the ratios."""
    out: dict[str, Any] = {"machine": machine(), "runs": results}
    if baseline is None:
        return out
    other = json.loads(baseline.read_text())["runs"]
    out["baseline"] = {
        name: {
            "total_s": other[name]["median_s"]["total"],
            "max_rss_gb": other[name]["max_rss_gb"],
            "time_ratio": other[name]["median_s"]["total"] / run["median_s"]["total"],
            "memory_ratio": other[name]["max_rss_gb"] / run["max_rss_gb"],
        }
        for name, run in results.items()
        if name in other
    }
    return out


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command-line flags."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    frame = envs.test_data() / "data" / "nuscenes_frame"
    flags.add_argument("--data", type=Path, default=frame, help="folder with the frame's files")
    flags.add_argument("--model", default="lidar_cam", choices=tuple(CONFIGS))
    flags.add_argument("--runs", type=int, default=3, help="passes after the warm-up")
    flags.add_argument("--baseline", type=Path, help="JSON of another implementation")
    flags.add_argument("--out", type=Path, help="write JSON here; default: print it")
    flags.add_argument("--mode", choices=MODES, help="only this one, in this process")
    return flags.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both modes, each in a process of its own."""
    args = parse(argv)
    if args.mode:
        print(json.dumps(measure(args.mode, args.model, args.data, args.runs)))
        return
    results = {}
    for mode in MODES:
        flags = ["--mode", mode, "--model", args.model, "--runs", str(args.runs)]
        command = [sys.executable, "-m", __spec__.name, *flags, "--data", str(args.data)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[f"{args.model}.{mode}"] = json.loads(done.stdout.splitlines()[-1])
    content = report(results, args.baseline)
    if args.out:
        write_json(args.out, content, indent=1)
    else:
        print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
