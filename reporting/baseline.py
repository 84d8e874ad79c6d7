"""Baselines: numbers of repeated runs of one config, with their spread over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anybev.reporting.config_identity import config_entries, config_hash, differences
from anybev.reporting.run import TP_ERRORS, Run, number, read_json
from anybev.reporting.status import write_json

FORMAT = 1
#: Parts of equal length that a training is cut into; the mean loss of each is compared.
WINDOWS = 5
#: Facts that must agree before two speeds are compared.
MACHINE = ("host", "processor", "cores", "backend", "device", "threads", "torch", "world_size")


class CannotCompareError(ValueError):
    """Run and baseline do not measure the same thing."""


@dataclass(frozen=True)
class RunNumbers:
    """What one run gave.

    Attributes:
        seed: of training.
        started, commit: when, and from which source.
        machine: the facts in ``MACHINE``.
        values: number -> value: ``NDS``, ``mAP``, ``mATE`` ..., ``AP/<class>``, ``loss 1/5``
            ..., ``<part of the loss> 5/5``, ``FPS`` (of evaluation), ``samples/s`` (of training).
            NaN where a loss was not finite.
        entries: the config, see ``config_entries``.
        frames: what was scored: split, frames, objects of each class.
        steps: of training; None for an evaluation alone.
        note: what has to be said beside the numbers.
    """

    seed: int | None
    started: str
    commit: str
    machine: Mapping[str, Any]
    values: Mapping[str, float]
    entries: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Spread:
    """One number over the seeds: mean, standard deviation (n - 1) and count."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Baseline:
    """Repeated runs of one config.

    Attributes:
        runs: what each gave.
        entries: the config, without paths and seed.
        frames: what was scored.
        steps: of training.
        false_alarm: chance that a run of unchanged code fails the comparison.
        note: what has to be said beside the numbers.
    """

    runs: tuple[RunNumbers, ...]
    entries: Mapping[str, Any]
    frames: Mapping[str, Any]
    steps: int | None
    false_alarm: float = 0.05
    note: str = ""

    def spread(self, name: str, machine: Mapping[str, Any] | None = None) -> Spread | None:
        """A number over the runs, or over those of one machine; None without any."""
        values = [
            run.values[name]
            for run in self.runs
            if name in run.values and (machine is None or run.machine == machine)
        ]
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return Spread(statistics.fmean(values), std, len(values))

    def names(self) -> list[str]:
        """Numbers that any run has, in the order of the first."""
        return list(dict.fromkeys(name for run in self.runs for name in run.values))

    def without_seeds(self, seeds: Sequence[int | None]) -> Baseline:
        """This baseline less the runs of these seeds: what they gave says nothing about others."""
        judged = {seed for seed in seeds if seed is not None}
        return replace(self, runs=tuple(run for run in self.runs if run.seed not in judged))

    def with_runs(self, runs: Sequence[RunNumbers]) -> Baseline:
        """This baseline and more runs.

        Raises:
            ValueError: a seed is there already: a repeated seed says nothing about the spread.
            CannotCompareError: a loss is not finite.
        """
        known = {run.seed for run in self.runs}
        for run in runs:
            if run.seed in known:
                raise ValueError(
                    f"regress: runs of a baseline must have different seeds, got {run.seed} twice; "
                    "try another seed, or --fresh to start over"
                )
            odd = [name for name, value in run.values.items() if not math.isfinite(value)]
            if odd:
                raise CannotCompareError(
                    f"regress: runs of a baseline must have finite numbers, got {odd[0]} = nan"
                )
            known.add(run.seed)
        return replace(self, runs=(*self.runs, *runs))


def run_numbers(run: Run) -> RunNumbers:
    """The numbers of a run folder.

    Raises:
        CannotCompareError: it was never evaluated, or wrote no config.
    """
    if run.metrics is None:
        raise CannotCompareError(
            f"regress: {run.path} must hold an evaluation, got none; try tools/test.py with the "
            "same --work-dir"
        )
    if not run.config_text:
        raise CannotCompareError(f"regress: {run.path} must hold the run's config, got none")
    facts, metrics = run.facts, run.metrics
    losses, steps = loss_windows(run)
    values = _scores(metrics) | losses
    speeds = {"FPS": run.fps, "samples/s": _training_speed(run.path)}
    values |= {name: value for name, value in speeds.items() if value is not None}
    return RunNumbers(
        seed=facts.get("seed"),
        started=str(facts.get("started") or ""),
        commit=str(facts.get("commit") or "unknown"),
        machine={key: facts.get(key) for key in MACHINE},
        values=values,
        entries=config_entries(run.config_text) | {"world_size": facts.get("world_size")},
        frames={key: metrics.get(key) for key in ("split", "num_frames", "num_objects")},
        steps=steps,
        note=run.note,
    )


def _training_speed(path: Path) -> float | None:
    """Samples a second of all processes, as the training wrote it at its end."""
    written = path / "metrics.json"
    content = read_json(written) if written.is_file() else None
    train = content.get("train") if isinstance(content, dict) else None
    return number(train.get("samples_per_s")) if isinstance(train, dict) else None


def _scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    named = {"NDS": metrics["nds"], "mAP": metrics["mean_ap"]}
    named |= {f"m{error}": metrics["tp_errors"].get(f"m{error}") for error in TP_ERRORS}
    named |= {f"AP/{name}": value for name, value in metrics["per_class_ap"].items()}
    return {name: float(value) for name, value in named.items() if number(value) is not None}


def loss_windows(run: Run) -> tuple[dict[str, float], int | None]:
    """Mean loss of each of ``WINDOWS`` equal parts of the training, and the steps of all.

    The parts of the loss (heatmap, classes, boxes) are kept of the last window alone. A row of
    ``scalars.json`` is itself a running mean of mmengine's ``log_processor.window_size`` steps.
    """
    if not run.train_rows:
        return {}, None
    steps = int(run.train_rows[-1]["step"])
    found: dict[str, list[float]] = {}
    for row in run.train_rows:
        window = min(math.ceil(row["step"] * WINDOWS / steps), WINDOWS)
        for key in row:
            if "loss" in key and (key == "loss" or window == WINDOWS):
                value = number(row[key])
                name = f"{key} {window}/{WINDOWS}"
                found.setdefault(name, []).append(math.nan if value is None else value)
    return {name: statistics.fmean(values) for name, values in found.items()}, steps


def new_baseline(runs: Sequence[RunNumbers], false_alarm: float = 0.05) -> Baseline:
    """A baseline of one config's runs.

    Raises:
        ValueError: see ``Baseline.with_runs``.
    """
    first = runs[0]
    empty = Baseline((), first.entries, first.frames, first.steps, false_alarm, first.note)
    return empty.with_runs(runs)


def add_runs(path: Path, runs: Sequence[RunNumbers], *, fresh: bool = False) -> Baseline:
    """The baseline of a file with more runs; a new one where there is no file, or if ``fresh``.

    Raises:
        CannotCompareError: the runs have another config, frames or steps than the baseline.
        ValueError: see ``Baseline.with_runs`` and ``read_baseline``.
    """
    known = None if fresh or not path.is_file() else read_baseline(path)
    wanted = known or new_baseline(runs[:1])
    for run in runs:
        changed = [
            *differences(run.entries, wanted.entries),
            *differences(run.frames, wanted.frames),
            *differences({"steps": run.steps}, {"steps": wanted.steps}),
        ]
        if changed:
            raise CannotCompareError(
                "regress: runs of a baseline must have one config and data set, got "
                f"{'; '.join(changed[:5])}; try --fresh to start over"
            )
    return known.with_runs(runs) if known else new_baseline(runs)


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline: for people the mean, spread and count of each number, then every run."""
    spreads = {name: baseline.spread(name) for name in baseline.names()}
    write_json(
        path,
        {
            "format": FORMAT,
            "note": baseline.note,
            "numbers": {name: vars(spread) for name, spread in spreads.items() if spread},
            "false_alarm": baseline.false_alarm,
            "steps": baseline.steps,
            "frames": baseline.frames,
            "runs": [
                {key: getattr(run, key) for key in ("seed", "started", "commit", "machine")}
                | {"values": run.values}
                for run in baseline.runs
            ],
            "config_hash": config_hash(baseline.entries),
            "config": baseline.entries,
        },
    )


def read_baseline(path: Path) -> Baseline:
    """Read what ``write_baseline`` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not such a file, or means and spreads are not those of its runs.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"regress: --baseline must be an existing file, got {path}; try --update to make one"
        )
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError(
                f"regress: {path} must be of format {FORMAT}, got {content['format']!r}"
            )
        baseline = Baseline(
            runs=tuple(_read_run(entry) for entry in content["runs"]),
            entries=dict(content["config"]),
            frames=dict(content["frames"]),
            steps=content["steps"],
            false_alarm=float(content["false_alarm"]),
            note=str(content["note"]),
        )
        stated = {name: Spread(**entry) for name, entry in content["numbers"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"regress: {path} must be a baseline, got: {error!r}") from error
    _check(path, baseline, stated, content.get("config_hash"))
    return baseline


def _read_run(entry: Mapping[str, Any]) -> RunNumbers:
    values = {str(name): float(value) for name, value in entry["values"].items()}
    return RunNumbers(
        entry["seed"], str(entry["started"]), str(entry["commit"]), dict(entry["machine"]), values
    )


def _check(path: Path, baseline: Baseline, stated: Mapping[str, Spread], stated_hash: Any) -> None:
    """Refuse a file whose parts were edited apart from each other."""
    if not 0 < baseline.false_alarm < 1:
        raise ValueError(
            f"regress: {path}: false_alarm must be in 0..1, got {baseline.false_alarm}"
        )
    if config_hash(baseline.entries) != stated_hash:
        raise ValueError(f"regress: {path}: config_hash must be that of config, got {stated_hash}")
    for name in baseline.names():
        spread = baseline.spread(name)
        given = stated.get(name)
        if spread is None or given is None or not _close(spread, given):
            raise ValueError(
                f"regress: {path}: numbers must be those of runs, got another {name}; try --update "
                "instead of an editor"
            )


def _close(first: Spread, second: Spread) -> bool:
    pairs = ((first.mean, second.mean), (first.std, second.std))
    near = all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in pairs)
    return near and first.n == second.n
