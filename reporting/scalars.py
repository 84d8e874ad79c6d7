"""Curves as JSON lines: one line a step, appended while a run goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anybev.reporting.status import plain


class ScalarLog:
    """Appends to a ``scalars.json``: ``{"step": 50, "loss": 3.1, ...}`` a line.

    Args:
        path: file to append to; its folder is made when missing.
        resume_step: lines of later steps are dropped first, so that a run resumed from an earlier
            checkpoint does not tell a part of its curve twice. None keeps every line.
    """

    def __init__(self, path: Path | str, *, resume_step: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        lines = load_scalars(self.path)
        kept = [line for line in lines if resume_step is None or line["step"] <= resume_step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if text != self.path.read_text(encoding="utf-8"):
            partial = self.path.with_name(self.path.name + ".part")
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; it is on disk when this returns.

        Raises:
            ValueError: ``values`` has a ``step`` of its own.
            TypeError: a value is no number or text.
        """
        if "step" in values:
            raise ValueError("scalars: values must have no 'step' of their own, got one")
        line = json.dumps({"step": int(step), **plain(values)}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def load_scalars(path: Path | str) -> list[dict[str, Any]]:
    """Read the lines of a ``scalars.json``.

    A last line that a killed run left unfinished is dropped.

    Raises:
        ValueError: another line is no JSON object with a ``step``.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict) or "step" not in row:
            raise ValueError(
                f"scalars: line {number} of {path} must be a JSON object with a step, got "
                f"{line.strip()[:60]!r}"
            )
        rows.append(row)
    return rows


def curve(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one scalar, where it was written and finite."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in points], [float(value) for _, value in points]
