"""Options of ``anybev status``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anybev import envs
from anybev.reporting.status import SILENT_AFTER_S

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from anybev.reporting.job_status import JobStatus

_STYLES = {"running": "bold cyan", "finished": "bold green"}
_SLOWEST = "bold yellow"


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--watch", is_flag=True, help="Show it anew until the job ends.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@click.option(
    "--silent-after",
    type=click.FloatRange(1),
    default=SILENT_AFTER_S,
    show_default=True,
    help="Seconds of silence after which a job on another host counts as dead.",
)
@click.pass_context
def status(
    ctx: click.Context, run: Path, as_json: bool, watch: bool, interval: float, silent_after: float
) -> None:
    """How a job stands: running, finished, failed or dead.

    RUN is the --work-dir of tools/train.py or tools/test.py. Ends with status 0 when the job runs
    or is done, 1 when it failed or died, 2 when there is no such run.
    """
    from anybev.reporting.job_status import job_status

    def look() -> JobStatus:
        return job_status(run, silent_after)

    try:
        found = look()
        if watch and found.state == "running":
            found = _watch(look, interval, as_json)
    except (ValueError, OSError) as error:
        if envs.traceback():
            raise
        click.echo(f"Error: {error} (ANYBEV_TRACEBACK=1 shows where)", err=True)
        ctx.exit(2)
    _print(found, as_json)
    ctx.exit(0 if found.is_well else 1)


def _watch(look: Callable[[], JobStatus], interval: float, as_json: bool) -> JobStatus:
    """Show the job until it ends; its last state is the caller's to print."""
    if as_json or not sys.stdout.isatty():
        while (found := look()).state == "running":
            _print(found, as_json) if as_json else click.echo(_line(found))
            time.sleep(interval)
        return found
    from rich.live import Live

    with Live(auto_refresh=False, transient=True) as screen:
        while (found := look()).state == "running":
            screen.update(_page(found), refresh=True)
            time.sleep(interval)
    return found


def _print(found: JobStatus, as_json: bool) -> None:
    if as_json:
        from anybev.reporting.status import plain

        click.echo(json.dumps(plain(asdict(found))))
        return
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(_page(found))


def _line(found: JobStatus) -> str:
    parts = [found.state, _progress(found), _numbers(found), _eta(found)]
    return ", ".join(part for part in parts if part)


def _progress(found: JobStatus) -> str:
    epoch = f"epoch {found.epoch}, " if found.epoch else ""
    unit = "batch" if found.kind == "evaluate" else "step"
    return f"{epoch}{unit} {found.step} of {found.steps}" if found.steps else ""


def _eta(found: JobStatus) -> str:
    return "" if found.eta_s is None else f"{timedelta(seconds=round(found.eta_s))} left"


def _numbers(found: JobStatus) -> str:
    known = {"loss": "loss {:.4f}", "samples_per_s": "{:.2f} samples/s"}
    return ", ".join(
        text.format(found.kpi[name]) for name, text in known.items() if _is_number(found.kpi, name)
    )


def _is_number(values: Any, name: str) -> bool:
    return isinstance(values.get(name), (int, float))


def _page(found: JobStatus) -> Group:
    """Everything about a job; texts from files are shown as text, never as markup."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from anybev.reporting.figures import safe_text

    style = _STYLES.get(found.state, "bold red")
    head = Text.assemble((found.state, style), f"  {safe_text(found.detail)}")
    again = f", start {found.starts}" if found.starts > 1 else ""
    processes = f"{found.world_size} process{'es' if found.world_size > 1 else ''}"
    rows = {
        "job": f"{found.kind} in {found.path}{again}",
        "process": f"{found.pid} on {found.host}, {processes}",
        "started": found.started,
        "last event": f"{found.last_event} ({_ago(found.silent_s)} ago)",
        "progress": ", ".join(filter(None, [_progress(found), _eta(found)])),
        "training": _numbers(found),
        "scores": ", ".join(
            f"{name} {value:.4f}"
            for name, value in found.metrics.items()
            if _is_number(found.metrics, name)
        ),
        "checkpoint": str(found.checkpoint or "none yet") if found.kind == "train" else "",
        "log": str(found.log or ""),
    }
    facts = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value:
            facts.add_row(Text(name, style="dim"), Text(safe_text(value), overflow="fold"))
    parts: list[Any] = [head, facts]
    if found.ranks:
        parts.append(_rank_table(found))
    parts += [Text(safe_text(f"note: {note}")) for note in found.notes]
    if found.tail:
        parts.append(Text(f"last lines of {found.log}:", style="dim"))
        parts += [Text(safe_text(line)) for line in found.tail]
    return Group(*parts)


def _rank_table(found: JobStatus) -> Table:
    """A row a process, the most of each column marked."""
    from rich.table import Table
    from rich.text import Text

    digits = {"data_time": 4, "time": 4, "memory": 0}
    table = Table("rank", "data (s)", "step (s)", "memory (MiB)")
    for rank in found.ranks:
        cells = [Text(str(rank["rank"]))]
        for name, places in digits.items():
            values = [r[name] for r in found.ranks if _is_number(r, name)]
            most = len(found.ranks) > 1 and bool(values) and rank[name] == max(values)
            text = f"{rank[name]:.{places}f}" if _is_number(rank, name) else "-"
            cells.append(Text(text, style=_SLOWEST if most else "", justify="right"))
        table.add_row(*cells)
    return table


def _ago(seconds: float) -> str:
    return f"{max(seconds, 0):.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))
