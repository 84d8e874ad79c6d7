"""What one process of a data-parallel step computes; started by torchrun, read by tests.

    torchrun ... -m anybev.testing.parallel_worker FOLDER

Every process takes its share of one batch of eight through the tiny model; the first writes each
case's gradients and everybody's losses to ``FOLDER/<case>.pth``.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anybev.datasets.sample import Batch
from anybev.engine import data_parallel, distributed
from anybev.engine.builder import build_detector
from anybev.testing.tiny import tiny_batch, tiny_model_cfg

#: Boxes of each of the eight samples: uneven, so that normalisers differ between processes.
BOXES = (3, 1, 2, 4, 2, 6, 1, 5)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "whole": {"overlap": False},
    "parts": {"bucket_cap_mb": 0.01},
    "bf16": {"gradient_compression": "bf16"},
}


def samples(batch: Batch, rows: Sequence[int]) -> Batch:
    """Those samples of a lidar batch."""
    return Batch(
        points_lidar_m=[batch.points_lidar_m[row] for row in rows],
        boxes_lidar=[batch.boxes_lidar[row] for row in rows],
        labels=[batch.labels[row] for row in rows],
        tokens=[batch.tokens[row] for row in rows],
        lidar_aug_matrix=batch.lidar_aug_matrix[list(rows)],
    )


def share(batch: Batch, rank: int, world_size: int) -> Batch:
    """A process's part, in one piece."""
    size = len(batch) // world_size
    return samples(batch, range(rank * size, (rank + 1) * size))


def global_batch() -> Batch:
    """Eight samples, the same in every process."""
    return tiny_batch(BOXES, points=400, seed=3)


class Objective(nn.Module):
    """The tiny detector's total loss.

    Args:
        frozen: normalisation with running statistics, as in evaluation; else with the batch's.
    """

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        torch.manual_seed(7)
        config = tiny_model_cfg()
        layer = config["bbox_head"]["decoder_layer"]
        for name in ("self_attn_cfg", "cross_attn_cfg"):
            layer[name]["dropout"] = 0.0
        layer["ffn_cfg"]["ffn_drop"] = 0.0
        self.detector: Any = build_detector(config).train()
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(not frozen)

    def forward(
        self, batch: Batch, factors: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """Losses; ``factors`` multiplies those normalised by peaks and by matched queries."""
        outputs = self.detector(batch)
        head = self.detector.bbox_head
        targets = head.targets(outputs, batch.boxes_lidar, batch.labels, None)
        losses = head.loss_from_targets(outputs, targets)
        self.counts = {
            "peaks": float((targets.heatmap == 1).sum()),
            "matched": float(targets.num_positives),
        }
        factors = factors or {"peaks": 1.0, "matched": 1.0}
        return {
            name: value * factors["peaks" if "heatmap" in name else "matched"]
            for name, value in losses.items()
            if "loss" in name
        }


def gradients(objective: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients by parameter."""
    module: Any = getattr(objective, "module", objective)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def run_case(frozen: bool, options: Mapping[str, Any], weighted: bool) -> dict[str, Any]:
    """One step of this process; the gradients after averaging, and everybody's losses."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    batch = share(global_batch(), rank, world_size)
    objective = Objective(frozen)
    chosen = data_parallel.DataParallelOptions.from_config(options)
    arguments = data_parallel.wrapper_arguments(objective, chosen, False)
    wrapped = distributed.wrap_unnumbered(objective, arguments)
    data_parallel.compress(wrapped, chosen)
    factors = None
    if weighted:
        with torch.no_grad():
            Objective.forward(objective, batch)
        everywhere = torch.tensor([objective.counts["peaks"], objective.counts["matched"]])
        dist.all_reduce(everywhere)
        factors = {
            name: world_size * count / float(total)
            for (name, count), total in zip(objective.counts.items(), everywhere, strict=True)
        }
    losses = wrapped(batch, factors)
    torch.stack(list(losses.values())).sum().backward()
    shares: list[Any] = [None] * world_size
    dist.all_gather_object(shares, {name: float(value.detach()) for name, value in losses.items()})
    return {"gradients": gradients(wrapped), "losses": shares}


def main(folder: Path) -> None:
    """All cases."""
    torch.set_num_threads(1)
    distributed.join({"backend": "gloo", "timeout": 60})
    wanted = {f"frozen_{name}": (True, options, False) for name, options in CASES.items()}
    wanted |= {"train_plain": (False, {}, False), "frozen_weighted": (True, {}, True)}
    for name, (frozen, options, weighted) in wanted.items():
        found = run_case(frozen, options, weighted)
        if dist.get_rank() == 0:
            torch.save(found, folder / f"{name}.pth")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
