"""The ``anybev`` command."""

import json
from pathlib import Path
from typing import Any

import click

import anybev
from anybev import envs
from anybev.engine.check.cli import check
from anybev.patches.cli import patches
from anybev.reporting.cli import report
from anybev.reporting.regress_cli import regress
from anybev.reporting.status_cli import status


class _ClearErrors(click.Group):
    """Bad input ends in one line; ``ANYBEV_TRACEBACK=1`` shows where it was found."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):  # click's own, RuntimeErrors by birth
            raise
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            if envs.traceback():
                raise
            message = f"{error} (ANYBEV_TRACEBACK=1 shows where)"
            raise click.ClickException(message) from error


@click.group(cls=_ClearErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(anybev.__version__)
def main() -> None:
    """BEV 3D perception on CPU, NVIDIA CUDA and Ascend NPU."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def env(as_json: bool) -> None:
    """Show the machine and which kernel answers each operator."""
    from anybev.device.report import environment

    facts = environment()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    from anybev.reporting.machine import print_environment

    print_environment(facts)


@main.group()
def synth() -> None:
    """Write deterministic synthetic data in an official on-disk layout."""


@synth.command("nuscenes")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--scenes", type=click.IntRange(1, 700), default=10, show_default=True)
@click.option(
    "--val-scenes", type=click.IntRange(0, 150), help="Of them held out  [default: a fifth]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--camera-scale",
    type=click.FloatRange(0.05, 2.0),
    default=1.0,
    show_default=True,
    help="Size of the pictures relative to 1600 x 900.",
)
@click.option("--cameras/--no-cameras", default=True, show_default=True, help="Write pictures.")
def synth_nuscenes(
    out: Path,
    scenes: int,
    val_scenes: int | None,
    seed: int,
    workers: int,
    camera_scale: float,
    cameras: bool,
) -> None:
    """Synthetic scenes in nuScenes layout: lidar, the six cameras' pictures, tables."""
    from anybev.datasets.synthetic.nuscenes import write_nuscenes
    from anybev.reporting.progress import progress_bar

    held_out = scenes // 5 if val_scenes is None else val_scenes
    if held_out >= scenes:
        raise click.UsageError(f"--val-scenes must be less than --scenes, got {held_out}")
    with progress_bar("synthetic scenes") as update:
        write_nuscenes(
            out,
            scenes=scenes - held_out,
            val_scenes=held_out,
            seed=seed,
            workers=workers,
            progress=update,
            cameras=cameras,
            camera_scale=camera_scale,
        )


@main.group()
def bench() -> None:
    """Measure operators beside their peers."""


@bench.command("ops")
@click.option("--only", multiple=True, help="Operators to measure (repeatable).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("work_dirs/bench_ops.jsonl"),
    show_default=True,
    help="JSON lines, one a row.",
)
@click.option(
    "--device", type=click.Choice(envs.BACKENDS), default="cpu", show_default=True, help="To time."
)
def bench_ops(only: tuple[str, ...], out: Path, device: str) -> None:
    """Operators on the real frame's shapes, each beside its peer in the same run."""
    from anybev.benchmark.ops.run import run

    run(out, only=only, device=device)


def _show_calib_example(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from anybev.datasets.user_calibration import EXAMPLE

    click.echo(EXAMPLE, nl=False)
    ctx.exit()


_FILE = click.Path(path_type=Path)


@main.command()
@click.argument("config", type=_FILE)
@click.argument("checkpoint", type=_FILE)
@click.option("--points", type=_FILE, help="Sweep: .bin, .npy, .pcd or .ply.")
@click.option("--images", type=_FILE, help="Folder of one picture a camera.")
@click.option("--sweeps", type=_FILE, help="Folder of the earlier sweeps an info .pkl lists.")
@click.option("--calib", type=_FILE, help="JSON, YAML, v2 info .pkl or KITTI's .txt.")
@click.option("--out", type=_FILE, default=Path("infer_out"), show_default=True)
@click.option("--score-thr", type=float, default=0.3, show_default=True, help="Least score.")
@click.option("--device", type=click.Choice(envs.BACKENDS), help="[default: as anybev env says]")
@click.option("--amp", is_flag=True, help="Mixed precision.")
@click.option("--load-dim", type=int, help="Numbers in a row of a .bin  [default: 4 or 5]")
@click.option("--dims", help="Names of the columns: x,y,z,intensity,age ...")
@click.option("--intensity-scale", type=float, help="Factor to 0..255.")
@click.option("--drop-nan", is_flag=True, help="Leave out points that are not finite.")
@click.option("--index", type=int, help="Frame of an info file.")
@click.option("--pictures/--no-pictures", default=True, help="Draw bev.png and cameras.png.")
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE", help="Override (repeatable).")
@click.option(
    "--calib-example",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_calib_example,
    help="Print a calibration file to start from.",
)
def infer(dims: str | None, cfg_options: tuple[str, ...], **given: Any) -> None:
    """Find objects in your own frame: points, pictures, calibration."""
    from anybev.engine.infer import infer as run
    from anybev.engine.infer_frame import Request
    from anybev.reporting.tables import printable

    names = tuple(name.strip() for name in dims.split(",")) if dims else None
    result = run(Request(dims=names, options=cfg_options, **given))
    for note in result.notes:
        click.echo(f"note: {printable(note)}", err=True)
    click.echo(result.table)
    click.echo(f"wrote {', '.join(str(path) for path in result.files)}", err=True)


@main.command("validate-data")
@click.argument("root", type=_FILE)
@click.option("--version", help="Folder of the tables  [default: those that are there]")
@click.option("--ann-file", multiple=True, type=_FILE, help="v2 info file (repeatable).")
@click.option("--fast", is_flag=True, help="Open no point file and no picture.")
@click.option("--full", is_flag=True, help="Read every point file, decode every picture.")
@click.option("--json", "json_file", type=_FILE, help="Also write the report here.")
@click.option("--workers", type=click.IntRange(1), default=4, show_default=True)
@click.pass_context
def validate_data(
    ctx: click.Context,
    root: Path,
    version: str | None,
    ann_file: tuple[Path, ...],
    fast: bool,
    full: bool,
    json_file: Path | None,
    workers: int,
) -> None:
    """Check a data set in nuScenes layout before training on it.

    Ends with status 0 without errors, 1 with errors, 2 when it could not check.
    """
    from anybev.datasets.validate.run import validate
    from anybev.reporting.progress import progress_bar
    from anybev.reporting.status import write_json
    from anybev.reporting.validation import validation_table

    if fast and full:
        raise click.UsageError("--fast and --full exclude each other")
    try:
        report = validate(
            root,
            version=version,
            ann_files=ann_file,
            depth="fast" if fast else "full" if full else "default",
            workers=workers,
            progress=progress_bar,
        )
        if json_file is not None:
            write_json(json_file, report.to_dict())
    except (ValueError, OSError) as error:
        if envs.traceback():
            raise
        click.echo(f"Error: {error} (ANYBEV_TRACEBACK=1 shows where)", err=True)
        ctx.exit(2)
    click.echo(validation_table(report))
    ctx.exit(1 if report.count("error") else 0)


main.add_command(check)
main.add_command(patches)
main.add_command(report)
main.add_command(regress)
main.add_command(status)
