#!/usr/bin/env python
"""Write info files: ``python tools/create_data.py nuscenes --root-path DIR --out-dir DIR``."""

import argparse
import sys
from pathlib import Path

from anybev.datasets.gt_database import create_gt_database
from anybev.datasets.nuscenes_infos import create_nuscenes_infos
from anybev.reporting.progress import progress_bar

DATASETS = ("nuscenes",)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--root-path", type=Path, default=Path("data/nuscenes"))
    parser.add_argument("--out-dir", type=Path, help="default: the root path")
    parser.add_argument("--extra-tag", default="nuscenes", help="start of the files' names")
    parser.add_argument(
        "--version",
        default="v1.0",
        help="v1.0-trainval, v1.0-mini, v1.0-test, or v1.0: trainval, and test where it is there",
    )
    parser.add_argument("--max-sweeps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4, help="processes that cut out objects")
    parser.add_argument(
        "--only-gt-database", action="store_true", help="from info files that are there"
    )
    return parser.parse_args(argv)


def _versions(root: Path, version: str) -> list[str]:
    if version != "v1.0":
        return [version]
    return ["v1.0-trainval"] + ["v1.0-test"] * (root / "v1.0-test").is_dir()


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Raises:
        ValueError: a data set that is not known here, or wrong data.
        FileNotFoundError: no tables there.
    """
    args = _arguments(argv)
    if args.dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {args.dataset!r}")
    out = args.out_dir or args.root_path
    common = {
        "extra_tag": args.extra_tag,
        "max_sweeps": args.max_sweeps,
        "workers": args.workers,
        "progress": progress_bar,
    }
    if args.only_gt_database:
        print(create_gt_database(args.root_path, out, **common))
        return
    for version in _versions(args.root_path, args.version):
        for path in create_nuscenes_infos(args.root_path, out, version=version, **common):
            print(path)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
