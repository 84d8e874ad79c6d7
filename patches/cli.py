"""Options of ``anybev patches``."""

import json
import warnings
from typing import Any

import click

from anybev.patches.application import applied
from anybev.patches.outcome import Outcome, PatchError, State

_STYLES = {State.APPLIED: "green", State.SKIPPED: "dim", State.FAILED: "bold red"}


def _tried() -> tuple[list[Outcome], str]:
    """Outcomes of applying the ledger here, undone again, and what stopped it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host's own, while it is imported
        try:
            with applied() as outcomes:
                return outcomes, ""
        except PatchError as error:
            if not error.outcomes:
                raise
            return error.outcomes, str(error)


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {"state": str(outcome.state), "reason": outcome.reason} | vars(outcome.entry)


def _show(outcomes: list[Outcome], *, ext: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("patch", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("why it is there, or why it was not applied", overflow="fold")
    for outcome in outcomes:
        style = _STYLES.get(outcome.state, "")
        state = f"[{style}]{outcome.state}[/]" if style else str(outcome.state)
        table.add_row(outcome.entry.id, state, escape(outcome.reason or outcome.entry.why))
    console = Console(highlight=False)
    console.print(table)
    if ext:
        names = Table("mmcv._ext", "answered by")
        for name, by in _ext_names().items():
            names.add_row(name, by)
        console.print(names)


def _ext_names() -> dict[str, str]:
    from anybev.patches.ext._module import answered_by

    return answered_by()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--ext", is_flag=True, help="Also every name of mmcv._ext and what answers it.")
@click.pass_context
def patches(ctx: click.Context, as_json: bool, ext: bool) -> None:
    """Apply every patch of mmdetection3d in this process, and show what became of it.

    Targets, version ranges and upstream links: --json, or patches/ledger.toml.

    Ends with status 0 when every patch applied or was not needed, 1 when one failed.
    """
    outcomes, error = _tried()
    if as_json:
        facts: dict[str, Any] = {"patches": [_facts(outcome) for outcome in outcomes]}
        if ext:
            facts["mmcv._ext"] = _ext_names()
        click.echo(json.dumps(facts, indent=2))
    else:
        _show(outcomes, ext=ext)
    if error:
        click.echo(f"Error: {error}", err=True)
    ctx.exit(1 if any(outcome.state is State.FAILED for outcome in outcomes) else 0)
