"""Runs side by side: which numbers, which way is better, what is best, how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anybev.reporting.run import TP_ERRORS, Run, number

HIGHER, LOWER, NEITHER = 1, -1, 0
_UNITS = {"ATE": "m", "ASE": "1 - IoU", "AOE": "rad", "AVE": "m/s", "AAE": "1 - acc"}


@dataclass(frozen=True)
class Measure:
    """One quantity of all runs.

    Attributes:
        key: name for programs.
        label: name for people, with its unit.
        better: ``HIGHER``, ``LOWER`` or ``NEITHER``.
        values: one a run, None where it is not known.
        digits: after the point.
    """

    key: str
    label: str
    better: int
    values: Sequence[float | None]
    digits: int = 3

    def text(self, value: float | None) -> str:
        """A value as shown; a dash where there is none."""
        return "-" if value is None else f"{value:.{self.digits}f}"

    def is_best(self, index: int) -> bool:
        """Whether a run has the best value of several that are not all the same."""
        known = [value for value in self.values if value is not None]
        value = self.values[index]
        if value is None or self.better == NEITHER or len(set(map(self.text, known))) < 2:
            return False
        best = max(known) if self.better == HIGHER else min(known)
        return self.text(value) == self.text(best)

    def difference(self, index: int) -> float | None:
        """How far a run is above the first."""
        first, value = self.values[0], self.values[index]
        return None if index == 0 or first is None or value is None else value - first


def _nested(content: Mapping[str, Any] | None, *path: str) -> float | None:
    value: Any = content
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return number(value)


def measures(runs: Sequence[Run]) -> list[Measure]:
    """Scores, then what they cost; quantities that no run has are left out."""

    def scores(label: str, better: int, *path: str, key: str = "") -> Measure:
        values = [_nested(run.metrics, *path) for run in runs]
        return Measure(key or label, label, better, values, 4 if better == HIGHER else 3)

    def facts(key: str, label: str, digits: int, *path: str) -> Measure:
        # A run that was cut off before its first iteration or batch cost nothing worth comparing.
        kept = [{} if run.facts.get("times") == {} else run.facts for run in runs]
        values = [_nested(facts, *(path or (key,))) for facts in kept]
        return Measure(key, label, LOWER, values, digits)

    def waits(phase: str, label: str, part: str = "data_s") -> Measure:
        return facts(f"{phase}_{part}", label, 3, "times", phase, part)

    found = [
        scores("NDS", HIGHER, "nds"),
        scores("mAP", HIGHER, "mean_ap"),
        *(
            scores(f"m{e} ({_UNITS[e]})", LOWER, "tp_errors", f"m{e}", key=f"m{e}")
            for e in TP_ERRORS
        ),
        Measure("FPS", "FPS (frames/s)", HIGHER, [run.fps for run in runs], 2),
        waits("train", "training: time an iteration (s)", "iteration_s"),
        waits("train", "training: of it waiting for data (s)"),
        waits("val", "evaluation: waiting for data (s a batch)"),
        waits("test", "test: waiting for data (s a batch)"),
        facts("peak_memory_mib", "peak memory (MiB)", 0),
        facts("seconds", "whole run (s)", 0),
    ]
    return [m for m in found if any(value is not None for value in m.values)]


def class_measures(runs: Sequence[Run]) -> list[Measure]:
    """AP of each class that any run has, in the order of the first run that has it."""
    names = {name: None for run in runs for name in (run.metrics or {}).get("per_class_ap", {})}
    return [
        Measure(name, name, HIGHER, [_nested(run.metrics, "per_class_ap", name) for run in runs], 3)
        for name in names
    ]


def facts_rows(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What the runs were made with, as text; rows that no run has are left out."""

    def packages(run: Run) -> str:
        known = run.facts.get("packages")
        pairs = known.items() if isinstance(known, Mapping) else ()
        return ", ".join(f"{name} {version}" for name, version in pairs if version)

    def device(run: Run) -> str:
        words = [run.facts.get(key) for key in ("backend", "processor", "device")]
        return ", ".join(dict.fromkeys(str(word) for word in words if word))

    def frames(run: Run) -> str:
        metrics = run.metrics or {}
        return f"{metrics.get('num_frames')} of {metrics.get('split')}" if metrics else ""

    def plain(key: str) -> list[str]:
        return [str(run.facts[key]) if run.facts.get(key) is not None else "" for run in runs]

    rows = [
        ("folder", [str(run.path) for run in runs]),
        ("config", [run.config_name for run in runs]),
        ("frames scored", [frames(run) for run in runs]),
        ("anybev", plain("anybev")),
        ("commit", plain("commit")),
        ("seed", plain("seed")),
        ("mixed precision", plain("mixed_precision")),
        ("processes", plain("world_size")),
        ("device", [device(run) for run in runs]),
        ("threads", plain("threads")),
        ("kernels", plain("kernels")),
        ("python", plain("python")),
        ("torch", plain("torch")),
        ("packages", [packages(run) for run in runs]),
        ("platform", plain("platform")),
        ("started", plain("started")),
    ]
    return [(name, values) for name, values in rows if any(values)]


def to_json(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that the tables show, for programs."""
    columns, classes = measures(runs), class_measures(runs)
    return {
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "config": run.config_name,
                "note": run.note,
                "missing": list(run.notes),
                "measures": {m.key: m.values[i] for m in columns},
                "per_class_ap": {m.key: m.values[i] for m in classes},
                "facts": dict(run.facts),
            }
            for i, run in enumerate(runs)
        ]
    }
