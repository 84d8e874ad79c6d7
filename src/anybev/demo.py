"""From nothing to a scored BEVFusion: synthetic scenes, training, evaluation, one summary."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import anybev
from anybev.datasets.infos import CATEGORIES
from anybev.device import current_backend
from anybev.reporting.status import plain, write_json

#: Models small enough for two CPU cores, by their sensors.
SMALL_CONFIGS = {
    kind: f"configs/bevfusion/bevfusion_{kind}_voxel0225_second_secfpn_1xb2-cyclic-3e_nus-3d.py"
    for kind in ("lidar", "lidar-cam")
}
CONFIG = SMALL_CONFIGS["lidar-cam"]
TRAIN_SCENES, VAL_SCENES = 16, 3
CAMERA_SCALE = 0.5  # of nuScenes' 1600 x 900: what the config's pictures are cut from
# In the synthetic world these two share one shape and differ by colour, which lidar cannot see.
SAME_SHAPE = ("motorcycle", "bicycle")


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _timed(title: str, step: Callable[[], Any], seconds: dict[str, float]) -> Any:
    _log(f"== {title}")
    start = time.monotonic()
    result = step()
    seconds[title] = round(time.monotonic() - start, 1)
    _log(f"== {title}: {seconds[title]} s")
    return result


def write_data(root: Path, seed: int) -> None:
    """Synthetic scenes, info files and ground-truth database under ``root``, unless there."""
    from anybev.datasets.nuscenes_infos import create_nuscenes_infos
    from anybev.datasets.synthetic.nuscenes import write_nuscenes
    from anybev.reporting.progress import progress_bar

    done = root / "DEMO_DATA_DONE.json"
    wanted = {
        "scenes": TRAIN_SCENES,
        "val_scenes": VAL_SCENES,
        "seed": seed,
        "camera_scale": CAMERA_SCALE,
    }
    if done.is_file() and json.loads(done.read_text()) == wanted:
        _log(f"data in {root} is there already")
        return
    with progress_bar("scenes") as update:
        write_nuscenes(
            root,
            scenes=TRAIN_SCENES,
            val_scenes=VAL_SCENES,
            seed=seed,
            camera_scale=CAMERA_SCALE,
            workers=2,
            progress=update,
        )
    create_nuscenes_infos(root, root, with_gt_database=False)
    write_json(done, wanted)


def config_options(root: Path, seed: int) -> list[str]:
    """``--cfg-options`` that point the demo's config at its data and seed."""
    return [
        f"train_dataloader.dataset.data_root={root}",
        f"val_dataloader.dataset.data_root={root}",
        f"test_dataloader.dataset.data_root={root}",
        f"val_evaluator.data_root={root}",
        f"test_evaluator.data_root={root}",
        f"val_evaluator.ann_file={root}/nuscenes_infos_val.pkl",
        f"test_evaluator.ann_file={root}/nuscenes_infos_val.pkl",
        f"randomness.seed={seed}",
    ]


def summarise(metrics: dict[str, float]) -> dict[str, float]:
    """NDS, mAP, frames a second, and the mean AP of the classes that lidar can tell apart."""
    lidar_classes = [metrics[f"AP/{name}"] for name in CATEGORIES if name not in SAME_SHAPE]
    return {
        "NDS": metrics["NDS"],
        "mAP": metrics["mAP"],
        "mAP_lidar_classes": sum(lidar_classes) / len(lidar_classes),
        "FPS": metrics["FPS"],
    }


def write_page(run: Path, page: Path) -> None:
    """The report of the run, with its best and worst frames."""
    from anybev.reporting.progress import progress_bar
    from anybev.reporting.report import write_report
    from anybev.reporting.run import read_runs

    for note in write_report(read_runs([run]), page, progress=progress_bar):
        _log(f"not shown: {note}")


@click.command()
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"))
@click.option("--work-dir", type=click.Path(path_type=Path), default=Path("work_dirs"))
def main(seed: int, data_root: Path, work_dir: Path) -> None:
    """Train and score a small lidar-camera BEVFusion on synthetic scenes."""
    from anybev.engine.train import train

    seconds: dict[str, float] = {}
    root, report = data_root / f"demo_seed{seed}", work_dir / f"demo_seed{seed}"
    config = Path(anybev.__file__).parent / CONFIG
    _timed("data", lambda: write_data(root, seed), seconds)
    amp = ["--amp"] if current_backend().fast_amp() else []
    argv = [
        str(config),
        *amp,
        "--work-dir",
        str(report),
        "--cfg-options",
        *config_options(root, seed),
    ]
    metrics = _timed("training and evaluation", lambda: train(argv), seconds)
    page = report / "report.html"
    _timed("report", lambda: write_page(report, page), seconds)
    _log("scored by the nuScenes devkit on synthetic scenes; not comparable with nuScenes")
    summary = plain(summarise(metrics) | {"report": page, "seed": seed, "seconds": seconds})
    write_json(report / "summary.json", summary)
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
