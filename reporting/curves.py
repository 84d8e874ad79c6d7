"""Curves of a run as SVG that reads on a light and on a dark page."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from anybev.reporting.figures import safe_text
from anybev.reporting.run import Row, Run, number

# A grey that stands out from white and from near-black alike.
_INK = "#7f8894"
_RUN_COLOURS = ("#2f81f7", "#e8590c", "#2b9a4b", "#c2255c", "#9c6ade", "#b08800", "#1098ad")
_DISTANCES = ("#c2255c", "#e8590c", "#2b9a4b", "#2f81f7")
_MOST_POINTS = 300


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file, the same bytes for the same figure."""
    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "anybev"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def run_colour(index: int) -> str:
    """Colour of the run at a place of the report."""
    return _RUN_COLOURS[index % len(_RUN_COLOURS)]


def _grid(
    count: int, columns: int, width: float, height: float, foot: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Panels of ``width`` x ``height`` inches with room for their labels, ``foot`` below them.

    Placed by hand: matplotlib's layout engines measure every label, which outlasts the drawing.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (columns * width, rows * height + foot)
    figure = Figure(figsize=size)
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        left, bottom = column * width + 0.45, foot + (rows - row - 1) * height + 0.25
        panel = figure.add_axes(
            (
                left / size[0],
                bottom / size[1],
                (width - 0.55) / size[0],
                (height - 0.55) / size[1],
            )
        )
        panel.tick_params(colors=_INK, labelsize=7, length=2)
        for name, spine in panel.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(_INK)
        panel.grid(color=_INK, alpha=0.2, linewidth=0.5)
        axes.append(panel)
    return figure, axes


def _title(axes: Axes, text: str) -> None:
    axes.set_title(safe_text(text), color=_INK, fontsize=9).set_parse_math(False)


def _series(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one quantity, averaged to a few hundred points."""
    pairs = [(row["step"], number(row.get(key))) for row in rows]
    kept = np.array([(step, value) for step, value in pairs if value is not None], np.float64)
    if not len(kept):
        return np.zeros(0), np.zeros(0)
    parts = np.array_split(kept, min(len(kept), _MOST_POINTS))
    means = np.array([part.mean(0) for part in parts])
    return means[:, 0], means[:, 1]


def _panels(runs: Sequence[Run], keys: Sequence[str], kind: str) -> Figure | None:
    drawn = []
    for key in keys:
        series = [_series(getattr(run, kind), key) for run in runs]
        if any(len(steps) for steps, _ in series):
            drawn.append((key, series))
    if not drawn:
        return None
    figure, axes = _grid(len(drawn), 3, 3.4, 2.1)
    for panel, (key, series) in zip(axes, drawn, strict=True):
        _title(panel, key)
        for index, (steps, values) in enumerate(series):
            marker = "o" if len(steps) <= 20 else None
            panel.plot(
                steps, values, color=run_colour(index), linewidth=1.2, marker=marker, markersize=2.5
            )
    return figure


def training_figure(runs: Sequence[Run]) -> Figure | None:
    """Losses, gradient norm, learning rate and times over iterations; None without training."""
    numbers = {key: None for run in runs for row in run.train_rows for key in row if _is_curve(key)}
    first = [key for key in ("loss", "grad_norm", "lr") if key in numbers]
    losses = [key for key in numbers if "loss" in key and key not in first]
    rest = [key for key in numbers if key not in first and key not in losses]
    return _panels(runs, [*first, *losses, *rest], "train_rows")


def _is_curve(key: str) -> bool:
    # With a slash: times and memory of single processes, too many to draw.
    return key not in ("step", "iter", "epoch", "base_lr") and "/" not in key


def validation_figure(runs: Sequence[Run]) -> Figure | None:
    """Scores over the evaluations of a training; None where there was one or none."""
    if all(len(run.val_rows) < 2 for run in runs):
        return None
    keys = ("NDS", "mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    figure = _panels(runs, keys, "val_rows")
    for panel in figure.axes if figure else ():
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))  # epochs
    return figure


def precision_figure(curves: Mapping[str, Any]) -> Figure:
    """Precision over recall, a panel a class, a line a match distance."""
    classes = list(curves["precision"])
    figure, axes = _grid(max(len(classes), 1), 5, 2.2, 1.9, foot=0.3)
    distances: list[str] = []
    for panel, name in zip(axes, classes, strict=False):
        _title(panel, name)
        panel.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        distances = sorted(curves["precision"][name], key=_as_number)
        for index, distance in enumerate(distances):
            colour = _DISTANCES[index % len(_DISTANCES)]
            values = curves["precision"][name][distance]
            panel.plot(curves["recall"], values, color=colour, linewidth=1.2)
    handles = [
        Line2D([], [], color=_DISTANCES[index % len(_DISTANCES)]) for index in range(len(distances))
    ]
    names = [safe_text(f"{distance} m") for distance in distances]
    legend = figure.legend(
        handles, names, loc="lower center", ncols=8, fontsize=8, frameon=False,
        labelcolor=_INK,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf
