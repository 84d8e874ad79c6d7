"""One process of the collectives' check: ``python -m anybev.engine.check.member ...``."""

import datetime
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from anybev.device import Backend, get_backend

_COUNT = 100_003
TIMEOUT_S = 60


def _filled(device: torch.device, rank: int, dtype: torch.dtype) -> Tensor:
    return (torch.arange(_COUNT) % 97 + rank).to(dtype).to(device)


def _all_reduce(device: torch.device, rank: int, size: int) -> bool:
    for dtype in (torch.float32, torch.float16, torch.int64):
        value = _filled(device, rank, dtype)
        dist.all_reduce(value)
        parts = [_filled(torch.device("cpu"), other, torch.int64) for other in range(size)]
        if not torch.equal(value.cpu().long(), torch.stack(parts).sum(0)):
            return False
    return True


def _broadcast(device: torch.device, rank: int, size: int) -> bool:
    value = _filled(device, rank, torch.float32)
    dist.broadcast(value, src=size - 1)
    return torch.equal(value.cpu(), _filled(torch.device("cpu"), size - 1, torch.float32))


def _all_gather(device: torch.device, rank: int, size: int) -> bool:
    parts = [torch.zeros(_COUNT, device=device) for _ in range(size)]
    dist.all_gather(parts, _filled(device, rank, torch.float32))
    cpu = torch.device("cpu")
    return all(
        torch.equal(part.cpu(), _filled(cpu, other, torch.float32))
        for other, part in enumerate(parts)
    )


def _objects(device: torch.device, rank: int, size: int) -> bool:
    found: list[object] = [None] * size
    dist.all_gather_object(found, {"rank": rank})
    return found == [{"rank": other} for other in range(size)]


OPERATIONS: dict[str, Callable[[torch.device, int, int], bool]] = {
    "all_reduce": _all_reduce,
    "broadcast": _broadcast,
    "all_gather": _all_gather,
    "all_gather_object": _objects,
}


def _try(run: Callable[[torch.device, int, int], bool], device: torch.device) -> str:
    """Nothing where every value is right, else what is wrong."""
    try:
        right = run(device, dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return "" if right else "wrong values"


def take_part(backend: Backend, rank: int, size: int, folder: Path) -> dict[str, str]:
    """Join ``size`` processes and run every collective once.

    Args:
        backend: whose devices they are, one a process.
        rank: of this process.
        size: number of processes.
        folder: where they meet.

    Returns:
        By collective, "" or what is wrong.
    """
    if sys.platform == "linux":
        # All on this host: the interface of its name may be down, or lead elsewhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = backend.device(rank)
    backend.prepare()
    backend.choose_device(rank)
    dist.init_process_group(
        backend.collective,
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
    )
    try:
        found = {name: _try(run, device) for name, run in OPERATIONS.items()}
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return found


def main(arguments: list[str]) -> None:
    """``BACKEND RANK SIZE FOLDER``: writes ``rank<RANK>.json`` there."""
    name, rank, size, folder = arguments
    found = take_part(get_backend(name), int(rank), int(size), Path(folder))
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
