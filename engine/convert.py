"""Checkpoints of mit-han-lab/bevfusion to AnyBEV's, behind tools/convert_checkpoint.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import anybev
from anybev.engine import config as configs
from anybev.engine.builder import build_detector
from anybev.engine.checkpoint import fill, read, save
from anybev.engine.convert_mit import Conversion, convert_mit
from anybev.engine.layouts import LAYOUTS

_CONFIG = "configs/bevfusion/bevfusion_{}_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"


def parser() -> argparse.ArgumentParser:
    """Flags of convert_checkpoint.py."""
    flags = argparse.ArgumentParser(
        description="Convert a checkpoint of mit-han-lab/bevfusion: names, sparse weights, boxes."
    )
    flags.add_argument("source", type=Path, help="checkpoint of that repository")
    flags.add_argument("target", type=Path, help="checkpoint to write")
    flags.add_argument(
        "--config",
        help="the model that the result must fill; default: the published lidar or lidar-cam one",
    )
    flags.add_argument(
        "--layout", choices=LAYOUTS, help="of the sparse weights, where their shapes do not tell"
    )
    return flags


def default_config(conversion: Conversion) -> Path:
    """The shipped config of the sensors whose weights were converted.

    Raises:
        ValueError: no config ships for them.
    """
    parts = conversion.parts()
    if "pts_middle_encoder" not in parts:
        raise ValueError(
            "convert: the file must hold encoders.lidar, got cameras alone; try --config CONFIG"
        )
    kind = "lidar-cam" if "img_backbone" in parts else "lidar"
    return Path(anybev.__file__).parent / _CONFIG.format(kind)


def convert(argv: Sequence[str] | None = None) -> Conversion:
    """Convert, check that the result fills the config's model, write it and print what was done.

    Raises:
        ValueError: the file is of another kind, or does not fill the model; nothing is written.
    """
    args = parser().parse_args(argv)
    if args.target.exists() and args.target.samefile(args.source):
        raise ValueError(f"convert: target must be another file than the source, got {args.target}")
    conversion = convert_mit(read(args.source)["state_dict"], args.layout)
    path = Path(args.config) if args.config else default_config(conversion)
    loaded = fill(build_detector(configs.load(path).model), conversion.state_dict, args.source)
    meta = {
        "converted_from": "mit-han-lab/bevfusion",
        "source": args.source.name,
        "sparse_layout_of_source": conversion.layout or "",
        "dropped": list(conversion.dropped),
    }
    save(args.target, conversion.state_dict, meta=meta)
    print(conversion)
    print(f"fills {path.name}: {loaded}")
    print(f"wrote {args.target}")
    return conversion
