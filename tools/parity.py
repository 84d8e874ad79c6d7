"""Compare BEVFusion with a golden pack of the reference implementation, stage by stage.

    python tools/parity.py --pack pack_a.npz --model lidar_cam [--strict] [--only head.]

Builds the full-size model, fills it with the pack's deterministic weights, runs forward, predict,
loss and backward in eval mode, and prints each stage's error against the pack's tolerance.

A pixel of the depth image or a point of the frustum that lies on an edge may fall on either side of
it, so tolerances of lidar_cam allow a share of outliers. --strict allows none. For lidar_cam it
gives the model the recorded depth image, and the view transform computes each point in the
reference's own order (exact_geometry), so that both sides see the same edges.

Exit status: 0 all within, 1 a tolerance is exceeded, 2 the pack or the arguments do not fit.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

import anybev
from anybev.engine.builder import build_detector
from anybev.models.bevfusion.detector import BEVFusion
from anybev.testing import parity
from anybev.testing.golden import GoldenPack
from anybev.testing.golden_check import Checker, Verdict

CONFIGS = {
    "lidar_only": "configs/_base_/models/bevfusion_lidar_voxel0075_second_secfpn.py",
    "lidar_cam": "configs/_base_/models/bevfusion_lidar-cam_voxel0075_second_secfpn.py",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command-line flags."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    flags.add_argument("--pack", required=True, type=Path, help="golden pack (.npz)")
    flags.add_argument("--model", default="lidar_only", choices=parity.MODELS)
    flags.add_argument(
        "--strict",
        action="store_true",
        help="allow no outliers; lidar_cam gets the recorded depth image and exact geometry",
    )
    flags.add_argument("--only", default="", metavar="PREFIX", help="stages that start so")
    flags.add_argument("--seed", type=int, help="seed of the weights; default: read off the pack")
    flags.add_argument("--device", default="cpu", help="torch device to run on")
    flags.add_argument("--save", type=Path, help="write this model's stages to an .npz")
    return flags.parse_args(argv)


def build(model: str, *, exact_geometry: bool = False) -> BEVFusion:
    """The full-size model, initialised."""
    config = Config.fromfile(Path(anybev.__file__).parent / CONFIGS[model])
    if exact_geometry:
        config.model.view_transform.exact_geometry = True
    detector = build_detector(config.model)
    if not isinstance(detector, BEVFusion):
        raise TypeError(f"parity: the config must describe BEVFusion, got {type(detector)}")
    return detector


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """Print one row a stage."""
    table = Table("stage", "ok", "max abs", "max rel", "over", "atol", "atol max", "note")
    for verdict in verdicts:
        table.add_row(
            verdict.stage,
            "ok" if verdict.ok else "[red]FAIL[/]",
            f"{verdict.max_abs:.2e}",
            f"{verdict.max_rel:.2e}",
            f"{verdict.over:.4f}",
            f"{verdict.atol:.2e}",
            f"{verdict.atol_max:.2e}",
            verdict.note,
        )
    console.print(table)


def compare(args: argparse.Namespace, console: Console) -> int:
    """Run and judge; the number of stages out of tolerance.

    Raises:
        ValueError: the pack has no such model, or no stage is left to judge.
    """
    pack = GoldenPack.load(args.pack)
    if args.model not in pack.models():
        raise ValueError(f"parity: --model must be one of {pack.models()}, got {args.model!r}")
    inject = args.strict and args.model == "lidar_cam"
    detector = build(args.model, exact_geometry=inject).to(args.device)
    seed = pack.seed if args.seed is None else args.seed
    parity.fill_model(detector, seed)
    started = time.perf_counter()
    stages = parity.run(detector, pack, args.model, args.device, inject_depth_image=inject)
    seconds = time.perf_counter() - started
    if args.save:
        np.savez(args.save, **{_full_name(args.model, s): value for s, value in stages.items()})
    verdicts = Checker(pack, args.model, stages, strict=args.strict).run()
    chosen = [v for v in verdicts if _full_name(args.model, v.stage).startswith(args.only)]
    chosen = chosen or [v for v in verdicts if v.stage.startswith(args.only)]
    if not chosen:
        raise ValueError(f"parity: --only must be the start of a stage, got {args.only!r}")
    show(chosen, console)
    names = {_full_name(args.model, name) for name in stages}
    missing = [s for s in pack.stages(args.model) if s not in names and "lidar.vox" not in s]
    if missing:
        console.print(f"recorded, not compared: {', '.join(missing)}")
    if inject:
        console.print("injected: the recorded depth image; geometry computed in reference order")
    failed = sum(not v.ok for v in chosen)
    console.print(
        f"{pack.name}, {args.model}, seed {seed}, {torch.get_num_threads()} threads: "
        f"{len(chosen)} checks, {failed} failed; model ran {seconds:.1f} s"
    )
    return failed


def _full_name(model: str, stage: str) -> str:
    return stage if stage.startswith("assign/") else f"{model}/{stage}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the comparison."""
    args = parse(argv)
    console = Console(width=160) if not sys.stdout.isatty() else Console()
    try:
        return 1 if compare(args, console) else 0
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
