"""What is checked, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
_EXAMPLES = 10


@dataclass(frozen=True)
class Check:
    """One kind of defect.

    Attributes:
        key: its short name, which JSON and documentation use.
        severity: an error makes training fail or wrong; a warning deserves a look.
        title: what must hold.
        unit: what is looked at.
    """

    key: str
    severity: Severity
    title: str
    unit: str


CHECKS = (
    Check("tables.files", "error", "every table is there and is a list of records", "tables"),
    Check("tables.records", "error", "records have their keys, of the right kind", "records"),
    Check("tables.tokens", "error", "tokens are unique", "records"),
    Check("tables.references", "error", "tokens refer to records", "references"),
    Check("tables.links", "error", "prev and next agree, from first to last", "records"),
    Check("tables.sensors", "error", "a key frame has its lidar and all cameras", "key frames"),
    Check("tables.splits", "warning", "scene names are of the devkit's splits", "scenes"),
    Check("infos.file", "error", "an info file is a v2 info file, safe to read", "files"),
    Check("infos.form", "error", "frames have their keys, of the right form", "frames"),
    Check("infos.tokens", "error", "frames occur once, in one split", "frames"),
    Check("infos.tables", "error", "info file and tables say the same", "frames"),
    Check("files.points", "error", "point files are there, in whole rows", "files"),
    Check("files.sweeps", "error", "sweep files are there, in whole rows", "files"),
    Check("files.images", "error", "pictures are there and not empty", "files"),
    Check("points.values", "error", "points are finite and near", "files"),
    Check("images.readable", "error", "pictures can be read", "files"),
    Check(
        "images.size", "error", "pictures have the size of the tables, or of each other", "files"
    ),
    Check("images.orientation", "warning", "pictures are recorded as they are seen", "files"),
    Check("time.order", "error", "time stamps increase along a scene", "records"),
    Check("time.files", "warning", "time stamps are those of the file names", "frames"),
    Check(
        "time.sweeps", "error", "sweeps are earlier than their key frame, nearest first", "sweeps"
    ),
    Check("time.cameras", "warning", "cameras fire within 0.1 s of the lidar", "pictures"),
    Check("calibration.poses", "error", "poses are rotations with a translation", "matrices"),
    Check("calibration.intrinsics", "error", "intrinsics can be inverted", "matrices"),
    Check("calibration.center", "warning", "principal points lie inside the picture", "pictures"),
    Check("calibration.projection", "error", "lidar points project into every camera", "pictures"),
    Check("calibration.direction", "warning", "cameras look where their name says", "pictures"),
    Check("boxes.size", "error", "sizes are positive", "boxes"),
    Check("boxes.large", "warning", "sizes are between 5 cm and 40 m", "boxes"),
    Check("boxes.range", "error", "boxes are within 300 m", "boxes"),
    Check("boxes.label", "error", "labels are among the categories", "boxes"),
    Check("boxes.velocity", "warning", "velocities are known and below 60 m/s", "boxes"),
    Check("boxes.points", "warning", "boxes said to hold points hold some", "boxes"),
    Check("boxes.uncounted", "warning", "boxes said to hold no point hold none", "boxes"),
    Check("boxes.frame", "error", "nine of ten boxes sit on their points", "boxes"),
)
BY_KEY = {check.key: check for check in CHECKS}


@dataclass
class Log:
    """What was looked at and what was found, by the key of a check.

    Attributes:
        looked: how many were looked at.
        found: how many of them are wrong.
        examples: the first of them as (where, what).
        notes: what a reader should know besides.
    """

    looked: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def look(self, key: str, count: int = 1) -> None:
        """Count what a check looks at."""
        self.looked[BY_KEY[key].key] += count

    def find(self, key: str, where: str, what: str) -> None:
        """Note a defect."""
        self.found[BY_KEY[key].key] += 1
        examples = self.examples.setdefault(key, [])
        if len(examples) < _EXAMPLES:
            examples.append((where, what))

    def merge(self, others: Iterable[Log]) -> None:
        """Add what others saw, in their order."""
        for other in others:
            self.looked += other.looked
            self.found += other.found
            self.notes += other.notes
            for key, pairs in other.examples.items():
                own = self.examples.setdefault(key, [])
                own += pairs[: _EXAMPLES - len(own)]


@dataclass(frozen=True)
class Row:
    """One check's outcome."""

    check: Check
    looked: int
    found: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """Outcome of a validation.

    Attributes:
        root: folder of the data set.
        sources: tables and info files that were checked.
        depth: ``fast``, ``default`` or ``full``.
        rows: one for each check that had something to look at.
        notes: what was left out and why; shares of what is normal.
        seconds: how long it took.
    """

    root: str
    sources: tuple[str, ...]
    depth: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    seconds: float

    def count(self, severity: Severity) -> int:
        """Findings of a severity."""
        return sum(row.found for row in self.rows if row.check.severity == severity)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "root": self.root,
            "sources": list(self.sources),
            "depth": self.depth,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "seconds": round(self.seconds, 2),
            "notes": list(self.notes),
            "checks": [
                {
                    "check": row.check.key,
                    "severity": row.check.severity,
                    "title": row.check.title,
                    "looked_at": row.looked,
                    "unit": row.check.unit,
                    "findings": row.found,
                    "examples": [{"where": where, "what": what} for where, what in row.examples],
                }
                for row in self.rows
            ],
        }


def rows_of(log: Log) -> tuple[Row, ...]:
    """Rows of the checks that looked at something, in their order."""
    return tuple(
        Row(c, log.looked[c.key], log.found[c.key], tuple(log.examples.get(c.key, ())))
        for c in CHECKS
        if log.looked[c.key] or log.found[c.key]
    )
