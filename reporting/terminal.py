"""The summary of runs as a table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anybev.reporting.figures import safe_text
from anybev.reporting.run import Run
from anybev.reporting.summary import Measure, class_measures, measures


def print_summary(runs: Sequence[Run], console: Console) -> None:
    """Print every quantity and the classes' AP, a column a run, the best value marked.

    Names come from files: they are shown as text, never as markup or control sequences.
    """
    table = Table("")
    for run in runs:
        table.add_column(Text(safe_text(run.name), overflow="fold"), justify="right")
    for measure in measures(runs):
        table.add_row(Text(measure.label), *_cells(measure))
    for measure in class_measures(runs):
        table.add_row(Text(safe_text(f"AP {measure.label}")), *_cells(measure))
    if table.row_count:
        console.print(table)
    for note in dict.fromkeys(run.note for run in runs if run.note):
        console.print(Text(safe_text(note)))


def _cells(measure: Measure) -> list[Text]:
    return [
        Text(measure.text(value), style="bold green" if measure.is_best(index) else "")
        for index, value in enumerate(measure.values)
    ]
