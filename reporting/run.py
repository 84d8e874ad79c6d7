"""A run folder as data: metrics, curves and facts, with a note for whatever is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TP_ERRORS = ("ATE", "ASE", "AOE", "AVE", "AAE")
_SCALARS, _FACTS, _SUMMARY = "vis_data/scalars.json", "environment.json", "metrics_summary.json"
_MAX_CONFIG_CHARACTERS = 200_000

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One run folder of ``tools/train.py`` or ``tools/test.py``.

    Attributes:
        name: short and unique among the runs of a report.
        path: the folder.
        metrics: the newest evaluation's ``metrics_summary.json``, None without one.
        curves: its ``pr_curves.json``, None without one.
        evaluation_dir: the folder that both came from.
        facts: ``environment.json``; empty without one.
        train_rows: one a logged iteration, in order, with ``step``.
        val_rows: one an evaluation while training, with ``step``.
        fps: frames a second of the newest evaluation.
        config_name, config_text: the config as it was run.
        notes: what is missing, in words.
    """

    name: str
    path: Path
    metrics: Mapping[str, Any] | None = None
    curves: Mapping[str, Any] | None = None
    evaluation_dir: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    train_rows: Sequence[Row] = ()
    val_rows: Sequence[Row] = ()
    fps: float | None = None
    config_name: str = ""
    config_text: str = ""
    notes: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What has to be said beside the numbers, as the evaluation wrote it."""
        return str((self.metrics or {}).get("note") or "")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run folders; names are made unique.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: see ``read_run``.
    """
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"report: RUN must be different folders, got {', '.join(names)}")
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def read_run(path: Path, name: str | None = None) -> Run:
    """Read one run folder: a work directory, or one of its folders of a single start.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: it is no run folder, or a file in it cannot be read; names it.
    """
    if not path.exists():
        raise FileNotFoundError(f"report: RUN must be an existing folder, got {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"report: RUN must be a folder, got the file {path}")
    starts = _starts(path)
    if not starts:
        raise ValueError(
            f"report: RUN must hold <time>/{_SCALARS} or <time>/nuscenes/{_SUMMARY}, got {path} "
            "without them; try the --work-dir of tools/train.py or tools/test.py"
        )
    notes: list[str] = []
    evaluation = _newest(starts, f"nuscenes/{_SUMMARY}")
    metrics = checked_metrics(evaluation) if evaluation else None
    if evaluation is None:
        notes.append("no evaluation in this run: no scores, precision curves or frames")
    folder = evaluation.parent if evaluation else None
    curves = _curves(folder, notes) if folder else None
    facts = _facts(starts, folder, notes)
    train_rows, val_rows = _scalars(starts, notes)
    config = _config_file(path, starts)
    return Run(
        name=name or path.resolve().name,
        path=path,
        metrics=metrics,
        curves=curves,
        evaluation_dir=folder,
        facts=facts,
        train_rows=train_rows,
        val_rows=val_rows,
        fps=_fps(facts, val_rows, path),
        config_name=str(facts.get("config") or (config.name if config else "")),
        config_text=_text(config)[:_MAX_CONFIG_CHARACTERS] if config else "",
        notes=tuple(notes),
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is no JSON; names the file.
    """
    try:
        return json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"report: {path} must be JSON, got: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"report: {path} must be text in UTF-8, got: {error}") from error


def number(value: Any) -> float | None:
    """``value`` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def _starts(path: Path) -> list[Path]:
    """Folders of single starts, oldest first (their names are their times)."""

    def is_start(folder: Path) -> bool:
        wanted = (_SCALARS, _FACTS, f"nuscenes/{_SUMMARY}")
        return any((folder / name).is_file() for name in wanted)

    if is_start(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and is_start(folder))


def _newest(starts: Sequence[Path], name: str) -> Path | None:
    return next((start / name for start in reversed(starts) if (start / name).is_file()), None)


def checked_metrics(path: Path) -> dict[str, Any]:
    """A ``metrics_summary.json`` whose parts are what tables take them for.

    Raises:
        ValueError: it is not; says which part.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"report: {path} must hold an object, got {type(content).__name__}")
    for key in ("nds", "mean_ap"):
        if number(content.get(key)) is None:
            raise ValueError(f"report: {path}: {key} must be a number, got {content.get(key)!r}")
    inner = {"tp_errors": 1, "per_class_ap": 1, "per_class_ap_by_threshold": 2, "per_class_tp": 2}
    for key, depth in inner.items():
        if not _is_table(content.get(key), depth):
            raise ValueError(f"report: {path}: {key} must map names to numbers, got another form")
    classes = set(content["per_class_ap"])
    for key in ("per_class_ap_by_threshold", "per_class_tp"):
        if set(content[key]) != classes:
            raise ValueError(f"report: {path}: {key} must have the classes of per_class_ap")
    return content


def _is_table(value: Any, depth: int) -> bool:
    if depth == 0:
        return value is None or number(value) is not None
    return isinstance(value, dict) and all(_is_table(inner, depth - 1) for inner in value.values())


def _curves(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    path = folder / "pr_curves.json"
    if not path.is_file():
        notes.append(f"no {path.name}: no precision-recall curves; evaluate again to have them")
        return None
    content = read_json(path)
    precision = content.get("precision") if isinstance(content, dict) else None
    recall = content.get("recall") if isinstance(content, dict) else None
    lists = [recall]
    if isinstance(precision, dict):
        for by_distance in precision.values():
            lists += list(by_distance.values()) if isinstance(by_distance, dict) else [None]
    fits = isinstance(precision, dict) and all(
        isinstance(values, list)
        and len(values) == len(recall or ())
        and all(number(value) is not None for value in values)
        for values in lists
    )
    if not fits:
        raise ValueError(f"report: {path} must hold recall and precision, got another form")
    return dict(content)


def _facts(starts: Sequence[Path], folder: Path | None, notes: list[str]) -> dict[str, Any]:
    """Facts of the start that was evaluated, else of the newest that has some.

    A test after the training has times of its own: those of the training stay.
    """
    known = {}
    for start in starts:
        path = start / _FACTS
        if path.is_file():
            content = read_json(path)
            if not isinstance(content, dict):
                raise ValueError(
                    f"report: {path} must hold an object, got {type(content).__name__}"
                )
            known[start] = content
    if not known:
        notes.append(f"no {_FACTS}: versions, device and memory are not known")
        return {}
    newest = next(reversed(known))
    chosen = folder.parent if folder and folder.parent in known else newest
    times: dict[str, Any] = {}
    for content in known.values():
        times |= content["times"] if isinstance(content.get("times"), dict) else {}
    return known[chosen] | {"times": times}


def _rows(path: Path, notes: list[str]) -> Iterator[Row]:
    lines = _text(path).splitlines()
    for index, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if index == len(lines) - 1:
                notes.append(f"{path.name} ends in half a line: the run was cut off there")
                return
            raise ValueError(
                f"report: {path}, line {index + 1} must be JSON, got: {error}"
            ) from error
        if isinstance(row, dict) and number(row.get("step")) is not None:
            yield row


def _scalars(starts: Sequence[Path], notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Rows of training and of evaluation; a resumed run goes on where the one before it stopped."""
    train: list[Row] = []
    val: list[Row] = []
    for start in reversed(starts):
        path = start / _SCALARS
        if not path.is_file():
            continue
        rows = list(_rows(path, notes))
        first = min((row["step"] for row in train), default=math.inf)
        older = [row for row in rows if "loss" in row and row["step"] < first]
        if train and (first <= 1 or not older):
            break  # the newer start did not resume this one
        first_epoch = min((row["step"] for row in val), default=math.inf)
        train = older + train
        val = [row for row in rows if "NDS" in row and row["step"] < first_epoch] + val
        if train and train[0]["step"] <= 1:
            break
    if not train:
        notes.append("no training in this run: no loss curves")
    return train, val


def _fps(facts: Mapping[str, Any], val_rows: Sequence[Row], path: Path) -> float | None:
    if number(facts.get("fps")) is not None:
        return number(facts["fps"])
    if val_rows:
        return number(val_rows[-1].get("FPS"))
    for name in ("test_metrics.json", "metrics.json"):
        if (path / name).is_file():
            content = read_json(path / name)
            return number(content.get("FPS")) if isinstance(content, dict) else None
    return None


def _config_file(path: Path, starts: Sequence[Path]) -> Path | None:
    """The config that the run wrote down."""
    logged = [start / "vis_data" for start in reversed(starts)]
    for folder in [path.parent if starts == [path] else path, *logged]:
        found = sorted(folder.glob("*.py"), key=lambda file: file.stat().st_mtime)
        if found:
            return found[-1]
    return None
