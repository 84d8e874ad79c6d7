"""Evaluation of a checkpoint, behind tools/test.py."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anybev.engine import distributed
from anybev.engine import host as hosts
from anybev.engine.host import Prepare
from anybev.engine.job_events import JobEvents
from anybev.engine.launch import add_common_flags, build_runner, prepare
from anybev.engine.metrics import NuScenesMetric
from anybev.engine.runner import Runner
from anybev.reporting.progress import progress_bar
from anybev.reporting.scene import SCORE_THRESHOLD
from anybev.reporting.status import plain, write_json


def parser() -> argparse.ArgumentParser:
    """Flags of mmdetection3d's test.py."""
    flags = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    flags.add_argument("config", help="config file")
    flags.add_argument("checkpoint", help="checkpoint file")
    flags.add_argument(
        "--show-dir",
        metavar="DIR",
        help="draw frames here; a relative DIR lies in the folder of this start, beside its log",
    )
    flags.add_argument(
        "--score-thr",
        "--show-score-thr",
        type=float,
        default=SCORE_THRESHOLD,
        help="least score of a box that --show-dir draws (default: %(default)s)",
    )
    flags.add_argument(
        "--show-frames",
        type=int,
        default=20,
        metavar="N",
        help="frames that --show-dir draws, spread evenly; 0 for all (default: %(default)s)",
    )
    hosts.add_flags(flags)
    add_common_flags(flags)
    return flags


def check_flags(args: argparse.Namespace) -> None:
    """Refuse what drawing would refuse after the evaluation.

    Raises:
        ValueError: a number is out of its range.
    """
    if not 0 <= args.score_thr <= 1:
        raise ValueError(f"test: --score-thr must be in 0..1, got {args.score_thr}")
    if args.show_frames < 0:
        raise ValueError(f"test: --show-frames must be 0 or more, got {args.show_frames}")


def draw(runner: Runner, args: argparse.Namespace) -> None:
    """Pictures of the evaluated frames, for those metrics that keep frames."""
    from anybev.reporting.pictures import write_pictures

    out = Path(runner.log_dir) / args.show_dir  # an absolute folder stays itself
    folders = [metric.folder for metric in runner.test_evaluator.metrics if metric_keeps(metric)]
    if not folders:
        raise ValueError("test: --show-dir needs a NuScenesMetric in test_evaluator, got none")
    for folder in folders:
        written, missing = write_pictures(
            folder,
            out,
            score_threshold=args.score_thr,
            limit=args.show_frames,
            progress=progress_bar,
        )
        # As finished texts: mmengine shows warnings of the same format once.
        for text in [f"not drawn: {note}" for note in missing]:
            runner.logger.warning(text)
        runner.logger.info("%d pictures in %s", len(written), out)


def metric_keeps(metric: Any) -> bool:
    """Whether a metric left the frames it scored in a folder."""
    return isinstance(metric, NuScenesMetric) and metric.folder is not None


def evaluate(argv: Sequence[str] | None = None, host: Prepare | None = None) -> dict[str, Any]:
    """Evaluate, print the metrics as one JSON line and return them.

    Args:
        argv: the command line; None: this process's.
        host: makes mmdetection3d ready; called for its own configs only.
    """
    args = parser().parse_args(argv)
    check_flags(args)
    config = prepare(args, host)
    config.load_from, config.resume = args.checkpoint, False
    draws = bool(args.show_dir) and not hosts.is_host(config)
    if args.show_dir and not draws:
        hosts.show(config, args.show_dir, args.score_thr, args.task)
    message = f"evaluating {Path(args.checkpoint).name}"
    with JobEvents(config.work_dir, "evaluate", config.launcher, message) as job:
        job.runner = runner = build_runner(config)
        metrics = dict(runner.test())
        rank = runner.rank
        distributed.leave()  # before drawing: it may take longer than the others would wait
        if rank == 0:
            write_json(Path(runner.work_dir) / "test_metrics.json", metrics)
            if draws:
                draw(runner, args)
            print(json.dumps(plain(metrics)), flush=True)
        job.kpi = metrics
    return metrics
