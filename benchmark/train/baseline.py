"""The regression gate: a short training, compared with the baseline of repeated seeds.

    python -m anybev.benchmark.train.baseline                          # run once and compare
    python -m anybev.benchmark.train.baseline --make 0 1 2 3 4 5 6 7   # a new baseline

Make baselines in a git checkout: a copy of the sources without ``.git`` has no commit to name.
A small lidar-camera model learns one synthetic scene by heart and is scored on it. With one thread
and the same seed a run repeats itself bit for bit on one machine; on others, and after changes of
rounding, it is judged by the spread of the seeds. See docs/regress.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anybev
from anybev.datasets.nuscenes_infos import create_nuscenes_infos
from anybev.datasets.synthetic.nuscenes import write_nuscenes
from anybev.demo import config_options
from anybev.reporting.baseline import new_baseline, run_numbers, write_baseline
from anybev.reporting.run import read_run

CONFIG = (
    Path(anybev.__file__).parent
    / "configs/bevfusion/bevfusion_lidar-cam_voxel09_second_secfpn_1xb4-gate_nus-3d.py"
)
BASELINE = Path(__file__).resolve().parents[1] / "baselines" / "gate.json"
DATA_SEED = 11
# Of the baseline's seeds the one that the others explain best: what fails is then the code's doing.
JUDGED_SEED = 6
_TRAIN = "from anybev.engine.train import train; train()"


def write_scene(root: Path) -> None:
    """One training scene (and one that is not used) with info files, unless there."""
    write_nuscenes(root, scenes=1, val_scenes=1, seed=DATA_SEED, camera_scale=0.25)
    if not (root / "nuscenes_infos_val.pkl").is_file():
        create_nuscenes_infos(root, root, with_gt_database=False)


def train(root: Path, work_dir: Path, seed: int) -> None:
    """Train and score the gate's model in a process of its own.

    Args:
        root: from ``write_scene``.
        work_dir: folder of the run; an older one is replaced.
        seed: of training.

    Raises:
        RuntimeError: the training failed; names its output.
    """
    if work_dir.exists():
        shutil.rmtree(work_dir)
    work_dir.mkdir(parents=True)
    # The validation's frames are the training's: the model is scored on what it has seen.
    seen = root / "nuscenes_infos_train.pkl"
    options = [option for option in config_options(root, seed) if ".ann_file=" not in option]
    options += [f"{name}_evaluator.ann_file={seen}" for name in ("val", "test")]
    out = work_dir / "train.out"
    with out.open("w") as stream:
        arguments = [str(CONFIG), "--work-dir", str(work_dir), "--cfg-options", *options]
        done = subprocess.run(
            [sys.executable, "-c", _TRAIN, *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        raise RuntimeError(f"gate: the training must succeed, got {done.returncode}; see {out}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command-line flags."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--data-root", type=Path, default=Path("work_dirs/gate/data"))
    flags.add_argument("--work-dir", type=Path, default=Path("work_dirs/gate"))
    flags.add_argument("--baseline", type=Path, default=BASELINE, help="default: %(default)s")
    flags.add_argument(
        "--seed", type=int, default=JUDGED_SEED, help="of the run that is compared: %(default)s"
    )
    flags.add_argument("--make", type=int, nargs="+", metavar="SEED", help="write the baseline")
    flags.add_argument("--no-speed", action="store_true", help="the machine does other work too")
    flags.add_argument("--keep", action="store_true", help="with --make: keep finished runs")
    args = flags.parse_args(argv)
    if args.keep and args.make is None:
        flags.error("--keep must come with --make: a comparison trains anew")
    if args.make is not None and len(set(args.make)) < max(2, len(args.make)):
        flags.error(f"--make must be two different seeds or more, got {args.make}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Compare one run with the baseline, or make a baseline; the exit status of ``regress``."""
    args = parse(argv)
    write_scene(args.data_root)
    seeds = args.make or [args.seed]
    folders = [args.work_dir / f"seed_{seed}" for seed in seeds]
    for seed, folder in zip(seeds, folders, strict=True):
        if not (args.keep and (folder / "metrics.json").is_file()):
            train(args.data_root, folder, seed)
    if args.make:
        made = new_baseline([run_numbers(read_run(f)) for f in folders])
        write_baseline(args.baseline, made)
        print(f"wrote {args.baseline}")
        if any(run.commit == "unknown" for run in made.runs):
            print(
                f"{args.baseline} does not say which commit it is of: the sources are no git "
                "checkout; try --make in one",
                file=sys.stderr,
            )
        return 0
    command = "from anybev.cli import main; main()"
    arguments = ["regress", str(folders[0]), "--baseline", str(args.baseline)]
    if args.no_speed:
        arguments.append("--no-speed")
    return subprocess.run([sys.executable, "-c", command, *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main())
