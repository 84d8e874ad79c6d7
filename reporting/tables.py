"""Detection metrics as tables: plain text for a log, markdown for a report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

_ERRORS = ("ATE", "ASE", "AOE", "AVE", "AAE")
_UNITS = {"ATE": "m", "ASE": "1-IoU", "AOE": "rad", "AVE": "m/s", "AAE": "1-acc"}


class HasDict(Protocol):
    """Metrics that can say themselves as plain values."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""


def _number(value: Any) -> str:
    """Three decimals; a dash where nuScenes defines no such number."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}"


def printable(text: str) -> str:
    """Text from files without control characters, which could rewrite a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        parts = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return "  ".join([first.ljust(widths[0]), *parts]).rstrip()

    rule = "-" * len(line(["-" * width for width in widths]))
    return "\n".join([line(header), rule, *map(line, rows)])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table: the first column to the left, the others to the right."""
    rule = [":---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _content(metrics: HasDict | Mapping[str, Any]) -> Mapping[str, Any]:
    return metrics if isinstance(metrics, Mapping) else metrics.to_dict()


def _class_rows(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and one row a class: objects, AP, AP at each distance, five errors; the mean last."""
    by_threshold = content["per_class_ap_by_threshold"]
    distances = sorted(next(iter(by_threshold.values()), {}), key=float)
    objects = content["num_objects"]
    header = ["class", "objects", "AP", *(f"@{d} m" for d in distances), *_ERRORS]
    rows = []
    for name, ap in content["per_class_ap"].items():
        at = [_number(by_threshold[name][distance]) for distance in distances]
        errors = [_number(content["per_class_tp"][name][error]) for error in _ERRORS]
        rows.append([name, str(objects[name]), _number(ap), *at, *errors])
    at = [
        _number(sum(aps[distance] for aps in by_threshold.values()) / max(len(by_threshold), 1))
        for distance in distances
    ]
    errors = [_number(content["tp_errors"][f"m{error}"]) for error in _ERRORS]
    rows.append(["mean", str(sum(objects.values())), _number(content["mean_ap"]), *at, *errors])
    return header, rows


def _headline(content: Mapping[str, Any]) -> str:
    return f"NDS {content['nds']:.4f}   mAP {content['mean_ap']:.4f}"


def _errors_line(content: Mapping[str, Any]) -> str:
    return "   ".join(
        f"m{error} {_number(content['tp_errors'][f'm{error}'])} {_UNITS[error]}"
        for error in _ERRORS
    )


def _source(content: Mapping[str, Any]) -> str:
    frames = f"{content['num_frames']} frames of {content['split']}"
    return f"{frames}; {content['note']}" if content.get("note") else frames


def metrics_table(metrics: HasDict | Mapping[str, Any]) -> str:
    """NDS, mAP, the five true-positive errors and the classes, for a terminal or a log.

    Args:
        metrics: what ``anybev.evaluation.nuscenes.evaluate_nuscenes`` returned, or its
            ``metrics_summary.json`` read back.
    """
    content = _content(metrics)
    header, rows = _class_rows(content)
    return "\n".join(
        [
            _headline(content),
            _errors_line(content),
            "",
            text_table(header, rows),
            f"({_source(content)})",
        ]
    )


def metrics_markdown(metrics: HasDict | Mapping[str, Any]) -> str:
    """The same as ``metrics_table`` in markdown."""
    content = _content(metrics)
    header, rows = _class_rows(content)
    summary = [["NDS", "mAP", *(f"m{error} ({_UNITS[error]})" for error in _ERRORS)]]
    errors = [_number(content["tp_errors"][f"m{error}"]) for error in _ERRORS]
    summary.append([_number(content["nds"]), _number(content["mean_ap"]), *errors])
    return "\n\n".join(
        [
            markdown_table(summary[0], summary[1:]),
            markdown_table(header, rows),
            f"{_source(content)}.",
        ]
    )
