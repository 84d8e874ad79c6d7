"""Options of ``anybev report``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("runs", type=_PATH, nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=_PATH, help="HTML file to write  [default: RUN/report.html]")
@click.option("--frames", default="", help="Frames to draw: tokens or indices, by commas.")
@click.option("--best", default=2, show_default=True, help="Best frames of each run to draw.")
@click.option("--worst", default=2, show_default=True, help="Worst frames of each run to draw.")
@click.option("--score-thr", default=0.3, show_default=True, help="Least score of a drawn box.")
@click.option("--data-root", type=_PATH, help="Where the data set is now, if it moved.")
@click.option("--rerun", type=_PATH, help="Also write the frames for the rerun viewer (.rrd).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option(
    "--linearity", is_flag=True, help="Print training speed over processes as markdown; no page."
)
@click.option("--allow-differences", is_flag=True, help="--linearity of runs that are not alike.")
def report(
    runs: tuple[Path, ...],
    out: Path | None,
    frames: str,
    rerun: Path | None,
    as_json: bool,
    linearity: bool,
    allow_differences: bool,
    **given: Any,
) -> None:
    """Tables, curves and pictures of runs in one HTML page.

    A RUN is the --work-dir of tools/train.py or tools/test.py. With several, differences are to
    the first.
    """
    if linearity:
        _print_linearity(runs, allow_differences, as_json)
        return
    if allow_differences:
        raise click.UsageError("--allow-differences belongs to --linearity")
    from rich.console import Console

    from anybev.reporting.progress import progress_bar
    from anybev.reporting.report import Options, show, write_report
    from anybev.reporting.run import read_runs
    from anybev.reporting.status import plain
    from anybev.reporting.summary import to_json
    from anybev.reporting.terminal import print_summary

    names = [name.strip() for name in frames.split(",") if name.strip()]
    options = Options(
        frames=names,
        best=given["best"],
        worst=given["worst"],
        score_threshold=given["score_thr"],
        data_root=given["data_root"],
    )
    if rerun is not None:
        from anybev.reporting.rerun_export import require_rerun

        require_rerun()  # before the long work
    found = read_runs(runs)
    page = out or runs[0] / "report.html"
    if page.is_dir():
        raise ValueError(f"report: --out must be a file to write, got the folder {page}")
    shown = show(found, options, progress_bar)
    missing = write_report(found, page, options, shown=shown, progress=progress_bar)
    written = [page]
    if rerun is not None:
        from anybev.reporting.rerun_export import write_rerun

        write_rerun(found, rerun, options, shown=shown, progress=progress_bar)
        written.append(rerun)
    if as_json:
        click.echo(json.dumps(plain(to_json(found) | {"files": written, "missing": missing})))
        return
    print_summary(found, Console(highlight=False))
    _say("not shown: ", missing)
    _say("wrote ", [str(path) for path in written])


def _print_linearity(runs: Sequence[Path], allow_differences: bool, as_json: bool) -> None:
    from anybev.reporting.linearity import compare, linearity_markdown, to_json
    from anybev.reporting.status import plain

    found = compare(runs, allow_differences=allow_differences)
    click.echo(json.dumps(plain(to_json(found))) if as_json else linearity_markdown(found))


def _say(start: str, texts: Sequence[str]) -> None:
    from anybev.reporting.tables import printable

    for text in texts:
        click.echo(f"{start}{printable(text)}", err=True)
