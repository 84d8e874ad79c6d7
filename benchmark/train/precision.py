"""What mixed precision changes: the same trainings in float32 and in a shorter dtype.

    python -m anybev.benchmark.train.precision CONFIG --work-dir runs --out precision.jsonl \
        --precision bf16 --seeds 0 1 2 --cfg-options train_dataloader.dataset.data_root=...

Each seed is trained twice, from the same weights, on the same samples in the same order. Reported
are the differences of the pairs: mean and 95 % confidence interval (Student's t). JSON lines: one a
training, then one a measure. An interval that holds 0 does not show that there is no difference,
only that these seeds do not show one; its width says how large one could be.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from anybev.benchmark.ops.harness import machine
from anybev.engine.train import train

MEASURES = ("NDS", "mAP", "loss")
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_CONFIDENCE = 0.95


def interval(differences: Sequence[float]) -> dict[str, float | int]:
    """Mean of paired differences with its confidence interval.

    Args:
        differences: one a seed.

    Returns:
        ``mean``, ``low``, ``high`` of the 95 % interval, ``std``, ``n``.

    Raises:
        ValueError: fewer than two, or one that is not finite.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"interval: differences must be of at least 2 seeds, got {count}")
    if not all(map(math.isfinite, differences)):
        raise ValueError(f"interval: differences must be finite, got {list(differences)}")
    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    half = float(student_t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * std / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": std, "n": count}


def compare(runs: Sequence[dict[str, Any]], precision: str) -> list[dict[str, Any]]:
    """Differences to fp32 of every measure, seed by seed."""
    found = {(run["precision"], run["seed"]): run for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    return [
        {
            "measure": measure,
            "difference": f"{precision} - fp32",
            **interval([found[precision, s][measure] - found["fp32", s][measure] for s in seeds]),
        }
        for measure in MEASURES
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of ``compare``'s rows."""
    lines = ["| measure | difference | mean | 95 % interval | seeds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['measure']} | {row['difference']} | {row['mean']:+.4f} | "
        f"{row['low']:+.4f} .. {row['high']:+.4f} | {row['n']} |"
        for row in rows
    ]
    return "\n".join(lines)


def run_once(
    config: str, work_dir: Path, precision: str, seed: int, options: Sequence[str]
) -> dict[str, Any]:
    """One training in a process of its own; what it scored.

    Raises:
        CalledProcessError: the training failed; its output is above.
    """
    chosen = [*options, f"randomness.seed={seed}"]
    if precision != "fp32":
        chosen += [f"optim_wrapper.dtype={DTYPES[precision]}", "optim_wrapper.type=AmpOptimWrapper"]
    folder = work_dir / f"{precision}_seed{seed}"
    start = f"from {train.__module__} import train; train()"
    flags = ["--work-dir", str(folder), "--cfg-options", *chosen]
    subprocess.run([sys.executable, "-c", start, config, *flags], check=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    found = {"NDS": metrics["NDS"], "mAP": metrics["mAP"], "loss": metrics["train"]["loss"]}
    return {"precision": precision, "seed": seed, **found}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command-line flags."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("config", help="config file")
    flags.add_argument("--work-dir", type=Path, required=True, help="folder of the trainings")
    flags.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    flags.add_argument("--precision", choices=tuple(DTYPES), default="bf16")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    args = flags.parse_args(argv)
    if len(set(args.seeds)) < 2:
        flags.error(f"--seeds must be at least 2 different ones, got {args.seeds}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Train, compare, write and print."""
    args = parse(argv)
    runs = [
        run_once(args.config, args.work_dir, precision, seed, args.cfg_options)
        for seed in sorted(set(args.seeds))
        for precision in ("fp32", args.precision)
    ]
    rows = compare(runs, args.precision)
    facts = {"config": Path(args.config).name, "machine": machine()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps({**row, **facts}) + "\n" for row in [*runs, *rows]))
    print(table(rows))


if __name__ == "__main__":
    main()
