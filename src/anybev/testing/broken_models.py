"""BEVFusion with one thing wrong, to see that a regression check notices.

    python -m anybev.testing.broken_models --run work_dirs/gate/seed_0 --out broken.json

scores the last checkpoint of a run whole and with each fault, and writes the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from anybev.datasets.sample import Batch, Detections
from anybev.engine.test import evaluate
from anybev.models.bevfusion.box_coder import TransFusionBBoxCoder
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.transfusion_head import TransFusionHead
from anybev.reporting.baseline import run_numbers
from anybev.reporting.run import read_run
from anybev.reporting.status import write_json

DROPPED_CLASS = 0  # car
_YAW = 6  # column of a box


def _patches(kind: str) -> dict[tuple[type, str], Any]:
    """Methods to replace, by class and name."""
    decode, camera_map = TransFusionBBoxCoder.decode, BEVFusion.camera_map
    forward, loss, predict = TransFusionHead.forward, TransFusionHead.loss, TransFusionHead.predict

    def mirrored(self: TransFusionBBoxCoder, *args: Any) -> Tensor:
        boxes = decode(self, *args)
        boxes[..., _YAW].neg_()
        return boxes

    def black(self: BEVFusion, batch: Batch) -> Tensor:
        return torch.zeros_like(camera_map(self, batch))

    def shifted(self: TransFusionHead, bev: Tensor) -> dict[str, Tensor]:
        return forward(self, bev.roll(1, dims=2))

    def without_labels(self: TransFusionHead, *args: Any) -> dict[str, Tensor]:
        outputs, boxes, labels, *rest = args
        kept = [y.masked_fill(y == DROPPED_CLASS, -1) for y in labels]
        return loss(self, outputs, boxes, kept, *rest)

    def without_boxes(self: TransFusionHead, *args: Any) -> list[Detections]:
        return [_without(found, DROPPED_CLASS) for found in predict(self, *args)]

    patches: dict[str, dict[tuple[type, str], Any]] = {
        "yaw_sign": {(TransFusionBBoxCoder, "decode"): mirrored},
        "cameras_zeroed": {(BEVFusion, "camera_map"): black},
        "bev_shifted": {(TransFusionHead, "forward"): shifted},
        "class_dropped": {
            (TransFusionHead, "loss"): without_labels,
            (TransFusionHead, "predict"): without_boxes,
        },
    }
    return patches[kind]


def _without(found: Detections, label: int) -> Detections:
    kept = found.labels != label
    return Detections(found.boxes_lidar[kept], found.scores[kept], found.labels[kept])


KINDS = ("yaw_sign", "cameras_zeroed", "bev_shifted", "class_dropped")


@contextmanager
def broken(kind: str) -> Iterator[None]:
    """Every BEVFusion that runs in the block has one fault, in training and evaluation.

    Args:
        kind: ``yaw_sign``: decoded boxes are turned the wrong way; ``cameras_zeroed``: the cameras'
            map is zero; ``bev_shifted``: the head sees the map one cell further along x;
            ``class_dropped``: cars are neither learned nor found.

    Raises:
        ValueError: another word.
    """
    if kind not in KINDS:
        raise ValueError(f"broken: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    with ExitStack() as stack:
        for (owner, name), method in _patches(kind).items():
            stack.enter_context(patch.object(owner, name, method))
        yield


def score(run: Path, folder: Path, kind: str | None = None) -> dict[str, float]:
    """Numbers of a run's last checkpoint, with a fault or whole.

    Args:
        run: folder of a training.
        folder: for the evaluation.
        kind: see ``broken``; None for the model as it is.
    """
    checkpoint = Path((run / "last_checkpoint").read_text().strip())
    (config,) = run.glob("*.py")
    arguments = [str(config), str(run / checkpoint.name), "--work-dir", str(folder)]
    with broken(kind) if kind else ExitStack():
        evaluate(arguments)
    return dict(run_numbers(read_run(folder)).values)


def main(argv: Sequence[str] | None = None) -> None:
    """Score a checkpoint whole and with every fault."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--run", type=Path, required=True, help="folder of a training")
    flags.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = flags.parse_args(argv)
    folder = args.run / "broken"
    found = {"whole": score(args.run, folder / "whole")}
    found |= {kind: score(args.run, folder / kind, kind) for kind in KINDS}
    write_json(args.out, found)


if __name__ == "__main__":
    main()
