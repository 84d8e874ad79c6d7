"""Training from a config, behind tools/train.py."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from anybev.engine import distributed
from anybev.engine.host import Prepare
from anybev.engine.job_events import JobEvents
from anybev.engine.launch import add_common_flags, build_runner, prepare
from anybev.engine.tensorboard import require_tensorboard, write_for_tensorboard
from anybev.reporting.run import read_json
from anybev.reporting.status import write_json


def parser() -> argparse.ArgumentParser:
    """Flags of mmdetection3d's train.py."""
    flags = argparse.ArgumentParser(description="Train a detector.")
    flags.add_argument("config", help="config file")
    flags.add_argument("--amp", action="store_true", help="mixed precision (bfloat16 on CPU)")
    flags.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate to the global batch"
    )
    flags.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from CHECKPOINT, or from the newest one of the work directory",
    )
    flags.add_argument(
        "--tensorboard", action="store_true", help="also write the curves for TensorBoard"
    )
    add_common_flags(flags)
    return flags


def apply_flags(config: Config, args: argparse.Namespace) -> None:
    """Write ``--amp``, ``--auto-scale-lr``, ``--resume`` and ``--tensorboard`` into the config.

    Raises:
        ValueError: the config does not say what the flag needs.
        MachineError: TensorBoard is asked for, and not installed.
    """
    if args.amp:
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in config.get("auto_scale_lr", {}):
            raise ValueError(
                "train: --auto-scale-lr needs auto_scale_lr.base_batch_size in the config"
            )
        config.auto_scale_lr.enable = True
    if args.resume == "auto":
        config.resume, config.load_from = True, None
    elif args.resume:
        config.resume, config.load_from = True, args.resume
    if args.tensorboard:
        write_for_tensorboard(config)
    require_tensorboard(config)


def _earlier(file: Path, config: Config) -> dict[str, Any]:
    """What an earlier start of a resumed run left in ``metrics.json``; empty without one."""
    if not config.get("resume") or not file.is_file():
        return {}
    try:
        found = read_json(file)
    except ValueError:  # it is written anew
        return {}
    return dict(found) if isinstance(found, Mapping) else {}


def train(argv: Sequence[str] | None = None, host: Prepare | None = None) -> dict[str, Any]:
    """Train and return the last evaluation's metrics.

    Args:
        argv: the command line; None: this process's.
        host: makes mmdetection3d ready; called for its own configs only.
    """
    args = parser().parse_args(argv)
    config = prepare(args, host)
    apply_flags(config, args)
    message = f"training {Path(args.config).name}"
    with JobEvents(config.work_dir, "train", config.launcher, message) as job:
        job.runner = runner = build_runner(config)
        runner.train()
        metrics = dict(getattr(runner, "last_metrics", {}))
        measures = getattr(runner, "train_measures", None)
        if runner.rank == 0:
            file = Path(runner.work_dir) / "metrics.json"
            # A resume without a step left measured nothing: what the run measured before stays.
            known = {"train": measures} if measures else _earlier(file, config)
            write_json(file, known | metrics)
        job.kpi = metrics
        distributed.leave()
    return metrics
