"""Options of ``anybev regress``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anybev import envs

if TYPE_CHECKING:
    from anybev.reporting.baseline import RunNumbers

_PATH = click.Path(path_type=Path)


class _CannotCompare(click.ClickException):
    """Nothing was judged: neither a pass nor a regression."""

    exit_code = 2


@click.command()
@click.argument("runs", type=_PATH, nargs=-1, required=True, metavar="RUN...")
@click.option("--baseline", type=_PATH, required=True, help="JSON file with the baseline.")
@click.option("--update", is_flag=True, help="Add the runs to the baseline (a seed each).")
@click.option("--fresh", is_flag=True, help="With --update: forget what the file held.")
@click.option("--any-config", is_flag=True, help="Compare although the configs differ.")
@click.option("--scores-only", is_flag=True, help="Without losses: for tools/test.py's runs.")
@click.option("--no-speed", is_flag=True, help="Without FPS: the machine does other work too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.pass_context
def regress(
    ctx: click.Context,
    runs: tuple[Path, ...],
    baseline: Path,
    update: bool,
    fresh: bool,
    any_config: bool,
    scores_only: bool,
    no_speed: bool,
    as_json: bool,
) -> None:
    """Compare a run with a baseline; ends with 1 on a regression.

    NDS, mAP, errors, AP of each class and the loss curve, by tolerances from other seeds; FPS on
    the machine of the baseline alone. Several RUNs are judged by their mean. Exit status: 0 no
    regression, 1 regression, 2 cannot be compared (another config or data set, missing numbers, too
    few seeds).
    """
    from anybev.reporting.baseline import read_baseline, run_numbers
    from anybev.reporting.regress import compare, print_comparison, to_json
    from anybev.reporting.run import read_runs
    from anybev.reporting.status import plain

    try:
        if fresh and not update:
            raise ValueError("regress: --fresh must come with --update, got it alone")
        numbers = [run_numbers(run) for run in read_runs(runs)]
        if update:
            _update(baseline, numbers, fresh, as_json)
            return
        found = compare(
            numbers,
            read_baseline(baseline),
            any_config=any_config,
            scores_only=scores_only,
            speed=not no_speed,
        )
    except (ValueError, OSError) as error:
        if envs.traceback():
            raise
        raise _CannotCompare(f"{error} (ANYBEV_TRACEBACK=1 shows where)") from error
    if as_json:
        click.echo(json.dumps(plain(to_json(found))))
    else:
        from rich.console import Console

        print_comparison(found, Console(highlight=False))
    ctx.exit(1 if found.failed else 0)


def _update(path: Path, numbers: Sequence[RunNumbers], fresh: bool, as_json: bool) -> None:
    from anybev.reporting.baseline import add_runs, write_baseline

    changed = add_runs(path, numbers, fresh=fresh)
    write_baseline(path, changed)
    seeds = [run.seed for run in changed.runs]
    if as_json:
        click.echo(json.dumps({"baseline": str(path), "seeds": seeds}))
    else:
        click.echo(f"wrote {path}: {len(seeds)} seeds ({', '.join(map(str, seeds))})", err=True)
