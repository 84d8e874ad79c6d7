"""What one process of a data-parallel step on simulated npus computes; read by tests.

    torchrun --nproc-per-node 2 -m anybev.testing.npu_worker FOLDER

Every process takes its share of one batch through the small lidar model, on a device of its own,
and writes the averaged gradients and what its collectives did to ``FOLDER/<rank>.pth``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anybev.testing import simnpu


class Objective(nn.Module):
    """A detector's total loss."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector: Any = detector

    def forward(self, batch: Any) -> Tensor:
        """Sum of the losses."""
        from anybev.testing.npu_step import total

        return total(self.detector.loss(batch))


def shares() -> list[Any]:
    """The batches of the two processes."""
    from anybev.testing.tiny import tiny_batch

    return [tiny_batch((2, 3), points=400, seed=rank) for rank in range(2)]


def _refusal(device: str, group: Any) -> str:
    try:
        dist.all_reduce(torch.ones(2, device=device), group=group)
    except RuntimeError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    """One step of this process."""
    simnpu.activate()
    from anybev.device import current_backend
    from anybev.engine import data_parallel, distributed
    from anybev.testing.npu_step import model_and_batch

    torch.set_num_threads(1)
    backend = current_backend()
    distributed.join({"backend": backend.collective, "timeout": 60})
    rank = dist.get_rank()
    device = torch.empty(0, device="npu").device
    model = Objective(model_and_batch("lidar")[0].to(device))
    options = data_parallel.DataParallelOptions.from_config({})
    arguments = data_parallel.wrapper_arguments(model, options, False)
    wrapped = nn.parallel.DistributedDataParallel(model, device_ids=[rank], **arguments)
    torch.manual_seed(rank)
    wrapped(shares()[rank].to(device)).backward()
    named = model.detector.named_parameters()
    sums = {name: torch.full((2,), float(rank + 1), device=name) for name in ("cpu", "npu")}
    for value in sums.values():
        dist.all_reduce(value)
    alone = dist.new_group(backend="hccl")
    found = {
        "backend": dist.get_backend(),
        "device": device.index,
        "gradients": {name: p.grad.cpu() for name, p in named if p.grad is not None},
        "sums": {name: value.cpu() for name, value in sums.items()},
        "refused": _refusal("cpu", alone),
        "granted": _refusal("npu", alone),
    }
    torch.save(found, folder / f"{rank}.pth")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
