"""A run against a baseline: which numbers are worse than other seeds explain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import t as student

from anybev.reporting.baseline import MACHINE, Baseline, CannotCompareError, RunNumbers, Spread
from anybev.reporting.config_identity import differences
from anybev.reporting.figures import safe_text
from anybev.reporting.summary import HIGHER, LOWER, NEITHER

Verdict = Literal["ok", "better", "WORSE", "DIFFERENT", "not compared"]
FAILED: tuple[Verdict, ...] = ("WORSE", "DIFFERENT")
_NAMED = 8


@dataclass(frozen=True)
class Group:
    """Numbers that share one part of the false alarms.

    Attributes:
        name: for people and programs.
        better: ``HIGHER``, ``LOWER`` or, where any change counts, ``NEITHER``.
        floor: least tolerance, of the number's own unit.
        relative_floor: least tolerance as a part of the mean.
    """

    name: str
    better: int
    floor: float = 0.0
    relative_floor: float = 0.0


SCORES = Group("scores", HIGHER, floor=0.002)
ERRORS = Group("errors", LOWER, floor=0.002)
CLASSES = Group("classes", HIGHER, floor=0.002)
LOSS = Group("loss", NEITHER, relative_floor=0.002)
# One machine is not equally quick on two days.
SPEED = Group("speed", HIGHER, relative_floor=0.1)


def group_of(name: str) -> Group:
    """The group a number belongs to."""
    if name in ("NDS", "mAP"):
        return SCORES
    if name in ("FPS", "samples/s"):
        return SPEED
    if name.startswith("AP/"):
        return CLASSES
    return LOSS if "loss" in name else ERRORS


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
        name: of the number.
        group: its group's name.
        spread: over the baseline's seeds.
        value: of the run; the mean of several.
        tolerance: distance from the mean from which a number fails; None when not compared.
        verdict: in one word or two.
        note: why it was not compared, or what it cannot tell.
    """

    name: str
    group: str
    spread: Spread
    value: float | None
    tolerance: float | None
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """All numbers of a run.

    Attributes:
        rows: in the order of the baseline.
        notes: what a reader must know to judge them.
    """

    rows: Sequence[Row]
    notes: Sequence[str]

    @property
    def failed(self) -> list[Row]:
        """Numbers that are out of their tolerance."""
        return [row for row in self.rows if row.verdict in FAILED]


def compare(
    runs: Sequence[RunNumbers],
    baseline: Baseline,
    *,
    any_config: bool = False,
    scores_only: bool = False,
    speed: bool = True,
) -> Comparison:
    """Judge a run, or the mean of several, by the spread of the baseline's other seeds.

    A number fails when it is out of the interval in which a further run of the same code lies:
    mean +- t * std * sqrt(1/n + 1/m) of n seeds and m runs, with Student's t of n - 1 degrees of
    freedom. The baseline's chance of a false alarm is shared equally by the groups, and in a group
    by its numbers (Bonferroni). One side counts, but for losses, where a lower one is a change too.

    Args:
        runs: what is judged.
        baseline: what it is judged by.
        any_config: compare although the configs differ, and say how.
        scores_only: leave out losses, for evaluations of a checkpoint.
        speed: judge frames a second too; a machine that does other work says nothing about them.

    Raises:
        CannotCompareError: another config, other frames, fewer than two other seeds, a missing
            number, or seeds too few for any score to fail.
    """
    baseline = baseline.without_seeds([run.seed for run in runs])
    notes = _check_alike(runs, baseline, any_config, scores_only)
    left_out = [group for group, out in ((LOSS, scores_only), (SPEED, not speed)) if out]
    names = [name for name in baseline.names() if group_of(name) not in left_out]
    groups = {group_of(name): 0 for name in names}
    for name in names:
        groups[group_of(name)] += 1
    rows = []
    for name in names:
        group = group_of(name)
        share = baseline.false_alarm / len(groups) / groups[group]
        if group is SPEED:
            rows.append(_speed_row(name, runs, baseline, share))
        else:
            rows.append(_row(name, group, runs, baseline.spread(name), share))
    blind = _blind(rows)
    said = [note for note in [*notes, *_said_of(blind), baseline.note] if note]
    found = Comparison(rows, said)
    scores = [row.name for row in rows if group_of(row.name) in (SCORES, CLASSES)]
    if scores and set(scores) <= set(blind) and not found.failed:
        raise CannotCompareError(
            "regress: a baseline must have seeds enough to notice a score of zero, got "
            f"{len(baseline.runs)} beside the run's own; try --update with more"
        )
    return found


def tolerance(spread: Spread, runs: int, share: float, group: Group) -> float:
    """How far the mean of ``runs`` may lie from the baseline's.

    Args:
        spread: of the baseline.
        runs: how many are judged together.
        share: chance of a false alarm of this number.
        group: gives sides and least tolerance.
    """
    sides = 2 if group.better == NEITHER else 1
    quantile = float(student.ppf(1 - share / sides, spread.n - 1))
    width = quantile * spread.std * math.sqrt(1 / spread.n + 1 / runs)
    return max(width, group.floor, group.relative_floor * abs(spread.mean))


def _row(
    name: str, group: Group, runs: Sequence[RunNumbers], spread: Spread | None, share: float
) -> Row:
    values = [run.values[name] for run in runs if name in run.values]
    if spread is None or spread.n < 2 or len(values) < len(runs):
        missing = "the run" if len(values) < len(runs) else "the baseline (two seeds at least)"
        raise CannotCompareError(f"regress: {missing} must have {name}, got none")
    value = math.fsum(values) / len(values)
    width = tolerance(spread, len(runs), share, group)
    above = value - spread.mean
    verdict: Verdict = "ok"
    if not math.isfinite(value):
        verdict = "WORSE"
    elif abs(above) > width:
        verdict = "DIFFERENT" if group.better == NEITHER else "WORSE"
        if above * group.better > 0:
            verdict = "better"
    return Row(name, group.name, spread, value, width, verdict)


def _speed_row(name: str, runs: Sequence[RunNumbers], baseline: Baseline, share: float) -> Row:
    machine = runs[0].machine
    # Facts that lack on both sides would agree: nothing says that it is the same machine.
    known = all(machine.get(key) is not None for key in MACHINE)
    alike = known and all(run.machine == machine for run in runs)
    here = baseline.spread(name, machine) if alike else None
    if here is not None and here.n > 1 and all(name in run.values for run in runs):
        return _row(name, SPEED, runs, here, share)
    value = runs[0].values.get(name)
    everywhere = baseline.spread(name) or Spread(math.nan, 0.0, 0)
    why = "another machine" if known else "machine not known"
    why = "not measured" if value is None else why
    return Row(name, SPEED.name, everywhere, value, None, "not compared", why)


def _check_alike(
    runs: Sequence[RunNumbers], baseline: Baseline, any_config: bool, scores_only: bool
) -> list[str]:
    notes = []
    if len(baseline.runs) < 2:
        raise CannotCompareError(
            "regress: a baseline must have two seeds at least beside the run's own, got "
            f"{len(baseline.runs)}; try --update with another"
        )
    for run in runs:
        changed = differences(run.entries, baseline.entries)
        listed = "; ".join(changed[:_NAMED]) + ("; ..." if len(changed) > _NAMED else "")
        if changed and not any_config:
            raise CannotCompareError(
                f"regress: RUN must have the baseline's config, got {len(changed)} other entries "
                f"(run, baseline): {listed}; try --any-config"
            )
        if changed:
            notes.append(f"another config (run, baseline): {listed}")
        if run.frames != baseline.frames:
            other = "; ".join(differences(run.frames, baseline.frames))
            raise CannotCompareError(
                "regress: RUN must be scored on the baseline's frames, got others (run, "
                f"baseline): {other}"
            )
        if not scores_only and run.steps != baseline.steps:
            raise CannotCompareError(
                f"regress: RUN must be a training of {baseline.steps} steps, got "
                f"{run.steps or 'none'}; try --scores-only for an evaluation"
            )
    return notes


def _blind(rows: Sequence[Row]) -> list[str]:
    """Scores so uncertain that even zero would pass."""
    return [
        row.name
        for row in rows
        if group_of(row.name).better == HIGHER
        and row.tolerance is not None
        and row.spread.mean <= row.tolerance
    ]


def _said_of(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"seeds differ too much to notice if these fell to zero: {', '.join(names)}"]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The numbers as one table, then the notes; names come from files and are shown as text."""
    table = Table("", "baseline", "spread", "seeds", "allowed", "run", "")
    for column in table.columns[1:6]:
        column.justify = "right"
    last = ""
    for row in comparison.rows:
        if last and row.group != last:
            table.add_section()
        last = row.group
        style = {"WORSE": "bold red", "DIFFERENT": "bold red", "better": "green"}
        table.add_row(
            Text(safe_text(row.name)),
            f"{row.spread.mean:.4f}",
            f"{row.spread.std:.4f}",
            str(row.spread.n),
            _allowed(row),
            "-" if row.value is None else f"{row.value:.4f}",
            Text(f"{row.verdict} {row.note}".strip(), style=style.get(row.verdict, "")),
        )
    console.print(table)
    for note in comparison.notes:
        console.print(Text(safe_text(note)))
    failed = [row.name for row in comparison.failed]
    line = f"regression in {', '.join(failed)}" if failed else "no regression"
    console.print(Text(safe_text(line), style="bold red" if failed else "bold green"))


def _allowed(row: Row) -> str:
    if row.tolerance is None:
        return "-"
    better = group_of(row.name).better
    low, high = row.spread.mean - row.tolerance, row.spread.mean + row.tolerance
    if better == HIGHER:
        return f">= {low:.4f}"
    return f"<= {high:.4f}" if better == LOWER else f"{low:.4f} .. {high:.4f}"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything the table shows, for programs."""
    return {
        "regression": bool(comparison.failed),
        "failed": [row.name for row in comparison.failed],
        "notes": list(comparison.notes),
        "numbers": {
            row.name: {
                "group": row.group,
                "mean": row.spread.mean,
                "std": row.spread.std,
                "n": row.spread.n,
                "value": row.value,
                "tolerance": row.tolerance,
                "verdict": row.verdict,
                "note": row.note,
            }
            for row in comparison.rows
        },
    }
