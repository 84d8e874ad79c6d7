"""The curve of `camera_lift`: what the cameras are worth over the steps.

python -m anybev.benchmark.train.camera_lift_figure ROWS.jsonl FIGURE.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLOURS = {"lidar": "tab:blue", "lidar-cam": "tab:orange"}


def draw(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the figure: each run thin, the mean of the seeds bold.

    Args:
        rows: of `camera_lift`; those of faulty rigs are left out.
        out: PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind, colour in _COLOURS.items():
        curves = [
            np.array(row["curve"]) for row in rows if row.get("kind") == kind and not row["fault"]
        ]
        for steps, score in (curve.T for curve in curves):
            axes.plot(steps, score, color=colour, linewidth=0.8, alpha=0.5)
        steps, score = np.mean(curves, axis=0).T
        axes.plot(steps, score, color=colour, linewidth=2.2, marker="o", label=kind)
    axes.set_xlabel("steps of 2 frames")
    axes.set_ylabel("mean AP of motorcycle and bicycle")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Draw the rows of a file."""
    rows_file, out = (Path(name) for name in sys.argv[1:3])
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    draw([row for row in rows if "kind" in row], out)


if __name__ == "__main__":
    main()
