"""From nothing to a scored BEVFusion: synthetic scenes, two stages of training, one report."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

import anybev
from anybev.datasets.infos import CATEGORIES
from anybev.device import current_backend
from anybev.evaluation.nuscenes import SYNTHETIC_NOTE
from anybev.reporting.status import plain, write_json

#: Models small enough for two CPU cores, by their sensors.
SMALL_CONFIGS = {
    kind: f"configs/bevfusion/bevfusion_{kind}_voxel0225_second_secfpn_1xb2-cyclic-3e_nus-3d.py"
    for kind in ("lidar", "lidar-cam")
}
# A lidar model first, then the camera branch by itself, then both together. Many scenes, each seen
# once a stage: few would be learned by heart instead of what the pictures show.
EPOCHS = {"lidar": 1, "lidar-cam": 1}
CAMERA_STEPS = 200
TRAIN_SCENES, VAL_SCENES = 28, 3
DATA_DONE = "DEMO_DATA_DONE.json"
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


def write_data(
    root: Path, seed: int, scenes: int = TRAIN_SCENES, val_scenes: int = VAL_SCENES
) -> None:
    """Synthetic scenes and info files under ``root``, unless there.

    Args:
        root: folder to write.
        seed: of the scenes.
        scenes: to train on.
        val_scenes: held out.
    """
    from anybev.datasets.nuscenes_infos import create_nuscenes_infos
    from anybev.datasets.synthetic.nuscenes import write_nuscenes
    from anybev.reporting.progress import progress_bar

    done = root / DATA_DONE
    wanted = {
        "scenes": scenes,
        "val_scenes": val_scenes,
        "seed": seed,
        "camera_scale": CAMERA_SCALE,
    }
    if done.is_file() and json.loads(done.read_text()) == wanted:
        _log(f"data in {root} is there already")
        return
    with progress_bar("scenes") as update:
        write_nuscenes(
            root,
            scenes=scenes,
            val_scenes=val_scenes,
            seed=seed,
            camera_scale=CAMERA_SCALE,
            workers=2,
            progress=update,
        )
    create_nuscenes_infos(root, root, with_gt_database=False)
    write_json(done, wanted)


def config_options(root: Path, seed: int) -> list[str]:
    """``--cfg-options`` that point the demo's config at its data and seed."""
    folder, infos = _text(root), _text(root / "nuscenes_infos_val.pkl")
    return [
        f"train_dataloader.dataset.data_root={folder}",
        f"val_dataloader.dataset.data_root={folder}",
        f"test_dataloader.dataset.data_root={folder}",
        f"val_evaluator.data_root={folder}",
        f"test_evaluator.data_root={folder}",
        f"val_evaluator.ann_file={infos}",
        f"test_evaluator.ann_file={infos}",
        f"randomness.seed={seed}",
    ]


def _text(path: Path) -> str:
    """A path as the value of an option: with a comma and unquoted it would be a list."""
    return f'"{path}"' if "," in str(path) else str(path)


def train_cameras(
    out: Path,
    root: Path,
    seed: int,
    steps: int = CAMERA_STEPS,
    lidar_checkpoint: Path | None = None,
) -> None:
    """Camera branch that tells classes apart, with the lidar model if given; unless it is there.

    Beside ``out``, a JSON file says what it was made from: it is made anew from anything else.

    Args:
        out: file for ``load_from`` of the training with both.
        root: folder of the data set.
        seed: of training.
        steps: batches.
        lidar_checkpoint: of the lidar stage.
    """
    from anybev.engine.config import load, option_value
    from anybev.engine.pretrain_cameras import pretrain_cameras
    from anybev.reporting.progress import progress_bar

    pairs = (option.partition("=") for option in config_options(root, seed))
    options = {key: option_value(value) for key, _, value in pairs}
    config = load(Path(anybev.__file__).parent / SMALL_CONFIGS["lidar-cam"], options)
    done = out.with_suffix(".json")
    data = root / DATA_DONE
    wanted = {
        "seed": seed,
        "steps": steps,
        "config": hashlib.sha256(repr(config.to_dict()).encode()).hexdigest(),
        "data": json.loads(data.read_text()) if data.is_file() else None,
        "lidar_checkpoint": lidar_checkpoint and _sha256(lidar_checkpoint),
    }
    if out.is_file() and done.is_file() and json.loads(done.read_text()) == wanted:
        _log(f"{out} is there already")
        return
    done.unlink(missing_ok=True)
    with progress_bar("camera branch") as update:
        pretrain_cameras(
            config,
            out,
            lidar_checkpoint=lidar_checkpoint,
            steps=steps,
            seed=seed,
            progress=update,
        )
    write_json(done, wanted)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def train_stage(
    kind: str, root: Path, work_dir: Path, seed: int, more: Sequence[str] = ()
) -> dict[str, float]:
    """Train and score one small model.

    Args:
        kind: ``lidar`` or ``lidar-cam``.
        root: folder of the data set.
        work_dir: folder of logs and checkpoints.
        seed: of training.
        more: further ``--cfg-options``.

    Returns:
        The evaluation's metrics.
    """
    from anybev.engine.train import train

    amp = ["--amp"] if current_backend().fast_amp() else []
    options = config_options(root, seed)
    options += [
        f"train_cfg.max_epochs={EPOCHS[kind]}",
        f"train_cfg.val_interval={EPOCHS[kind]}",
        f"param_scheduler.0.total_steps={EPOCHS[kind]}",
        *more,
    ]
    config = Path(anybev.__file__).parent / SMALL_CONFIGS[kind]
    return train([str(config), *amp, "--work-dir", str(work_dir), "--cfg-options", *options])


def summarise(metrics: dict[str, float]) -> dict[str, float]:
    """NDS, mAP, frames a second, mean AP of the classes lidar can and cannot tell apart."""
    apart = [metrics[f"AP/{name}"] for name in CATEGORIES if name not in SAME_SHAPE]
    alike = [metrics[f"AP/{name}"] for name in SAME_SHAPE]
    return {
        "NDS": metrics["NDS"],
        "mAP": metrics["mAP"],
        "mAP_lidar_classes": sum(apart) / len(apart),
        "mAP_colour_classes": sum(alike) / len(alike),
        "FPS": metrics["FPS"],
    }


def write_page(runs: Sequence[Path], page: Path) -> None:
    """The report of the runs side by side, with best and worst frames."""
    from anybev.reporting.progress import progress_bar
    from anybev.reporting.report import Options, write_report
    from anybev.reporting.run import read_runs

    # After so short a training few scores are high.
    options = Options(score_threshold=0.15)
    for note in write_report(read_runs(list(runs)), page, options, progress=progress_bar):
        _log(f"not shown: {note}")


@click.command()
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"))
@click.option("--work-dir", type=click.Path(path_type=Path), default=Path("work_dirs"))
def main(seed: int, data_root: Path, work_dir: Path) -> None:
    """Train and score a small lidar-camera BEVFusion on synthetic scenes."""
    seconds: dict[str, float] = {}
    root, report = data_root / f"demo_seed{seed}", work_dir / f"demo_seed{seed}"
    _timed("data", lambda: write_data(root, seed), seconds)
    lidar, fused = report / "lidar", report / "lidar-cam"
    first = _timed("lidar", lambda: train_stage("lidar", root, lidar, seed), seconds)
    lidar_checkpoint, start = lidar / f"epoch_{EPOCHS['lidar']}.pth", report / "start.pth"
    _timed(
        "cameras",
        lambda: train_cameras(start, root, seed, lidar_checkpoint=lidar_checkpoint),
        seconds,
    )
    more = [f"load_from={_text(start)}"]
    metrics = _timed(
        "lidar and cameras", lambda: train_stage("lidar-cam", root, fused, seed, more), seconds
    )
    page = report / "report.html"
    _timed("report", lambda: write_page([fused, lidar], page), seconds)
    _log(SYNTHETIC_NOTE)
    facts = {"lidar_stage": summarise(first), "report": page, "seed": seed, "seconds": seconds}
    summary = plain(summarise(metrics) | facts)
    write_json(report / "summary.json", summary)
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
