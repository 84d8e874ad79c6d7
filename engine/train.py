"""Training from a config, behind tools/train.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from anybev.engine import distributed
from anybev.engine.launch import add_common_flags, build_runner, prepare
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
    add_common_flags(flags)
    return flags


def apply_flags(config: Config, args: argparse.Namespace) -> None:
    """Write ``--amp``, ``--auto-scale-lr`` and ``--resume`` into the config.

    Raises:
        ValueError: the config does not say what the flag needs.
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


def train(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and return the last evaluation's metrics."""
    args = parser().parse_args(argv)
    config = prepare(args)
    apply_flags(config, args)
    runner = build_runner(config)
    runner.train()
    metrics = dict(getattr(runner, "last_metrics", {}))
    if metrics and runner.rank == 0:
        write_json(Path(runner.work_dir) / "metrics.json", metrics)
    distributed.leave()
    return metrics
