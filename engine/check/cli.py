"""Options of ``anybev check``."""

from pathlib import Path

import click

from anybev import envs


@click.command()
@click.option("--ops", help="Check these operators alone, by commas.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write it here.")
@click.option("--device", type=click.Choice(envs.BACKENDS), help="[default: as anybev env says]")
@click.option("--steps", type=click.IntRange(1), default=50, show_default=True, help="To time.")
@click.option("--quick", is_flag=True, help="Fewer steps and number types.")
@click.pass_context
def check(
    ctx: click.Context,
    ops: str | None,
    json_file: Path | None,
    device: str | None,
    steps: int,
    quick: bool,
) -> None:
    """Compare this machine's device with the reference: operators, a training step, collectives.

    Ends with status 0 when nothing failed, else with 1. An operator that fails can be switched to
    its reference; its line says how.
    """
    from anybev.engine.check.run import Request, run
    from anybev.engine.check.table import report_table
    from anybev.files import write_json
    from anybev.reporting.progress import progress_bar

    names = tuple(name.strip() for name in ops.split(",") if name.strip()) if ops else ()
    report = run(Request(names, device, steps, quick), progress_bar)
    if json_file is not None:
        write_json(json_file, report.to_dict(), indent=1)
    click.echo(report_table(report))
    ctx.exit(0 if report.ok else 1)
