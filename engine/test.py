"""Evaluation of a checkpoint, behind tools/test.py."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anybev.engine import distributed
from anybev.engine.launch import add_common_flags, build_runner, prepare
from anybev.reporting.status import plain, write_json


def parser() -> argparse.ArgumentParser:
    """Flags of mmdetection3d's test.py."""
    flags = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    flags.add_argument("config", help="config file")
    flags.add_argument("checkpoint", help="checkpoint file")
    add_common_flags(flags)
    return flags


def evaluate(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate, print the metrics as one JSON line and return them."""
    args = parser().parse_args(argv)
    config = prepare(args)
    config.load_from, config.resume = args.checkpoint, False
    runner = build_runner(config)
    metrics = runner.test()
    if runner.rank == 0:
        write_json(Path(runner.work_dir) / "test_metrics.json", metrics)
        print(json.dumps(plain(metrics)), flush=True)
    distributed.leave()
    return dict(metrics)
