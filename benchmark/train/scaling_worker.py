"""One process of a scaling measurement; torchrun starts it, ``scaling.py`` writes its plan.

A chain of stages stands for the model: each has its share of the real model's gradients and costs
time in both directions, so torch's own reducer, buckets and hooks do what they do in training. On
the load ``device`` a stage only waits, as a host does while its accelerator computes; on ``host``
it multiplies matrices, which contend with the exchange for the processor's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anybev.engine.data_parallel import (
    DataParallelOptions,
    average_bf16,
    compress,
    wrapper_arguments,
)
from anybev.files import write_json

STAGES = 16
BACKWARD_SHARE = 2 / 3
_PRODUCT = 192  # rows and columns of the host load's matrices
_WARM_UP = 2  # the first step allocates, the second has its buckets put in order


class _Cost(torch.autograd.Function):
    """Identity on ``x`` that costs time both ways and gives each parameter a gradient of ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, work: Callable[[float], None], *parameters: Tensor) -> Tensor:
        ctx.work, ctx.parameters = work, parameters
        work(1 - BACKWARD_SHARE)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.work(BACKWARD_SHARE)
        return (gradients[0], None, *map(torch.ones_like, ctx.parameters))


_cost: Callable[..., Tensor] = _Cost.apply


class Load(nn.Module):
    """The chain of stages.

    Args:
        gradient_numel: values of each gradient, in the model's order.
        work: called with the share of a stage's time to spend.
    """

    def __init__(self, gradient_numel: Sequence[int], work: Callable[[float], None]) -> None:
        super().__init__()
        self.work = work
        self.weights = nn.ParameterList(torch.zeros(numel) for numel in gradient_numel)
        total, passed = sum(gradient_numel), 0
        self.stage_of = []
        for numel in gradient_numel:
            self.stage_of.append(min(passed * STAGES // total, STAGES - 1))
            passed += numel

    def forward(self, x: Tensor) -> Tensor:
        """``x`` unchanged, after every stage."""
        for stage in range(STAGES):
            own = [w for w, at in zip(self.weights, self.stage_of, strict=True) if at == stage]
            x = _cost(x, self.work, *own)
        return x


def work_of(load: Mapping[str, Any]) -> Callable[[float], None]:
    """What a stage does: ``device`` waits its share of ``seconds``, ``host`` does ``products``."""
    if load["load"] == "device":
        seconds = load["seconds"] / STAGES
        return lambda share: time.sleep(share * seconds)
    matrix = torch.full((_PRODUCT, _PRODUCT), 1 / _PRODUCT)
    products = load["products"] / STAGES

    def multiply(share: float) -> None:
        for _ in range(round(share * products)):
            torch.mm(matrix, matrix)

    return multiply


def timed(run: Callable[[], object], steps: int, warm_up: int = 1) -> dict[str, Any]:
    """Seconds of ``run`` on the slowest process, all starting together: median, range, number."""
    taken = []
    for step in range(warm_up + steps):
        dist.barrier()
        start = time.perf_counter()
        run()
        seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        if step >= warm_up:
            taken.append(seconds.item())
    return {"seconds": statistics.median(taken), "range": [min(taken), max(taken)], "steps": steps}


class _Bucket:
    """What ``average_bf16`` asks of DDP's buckets."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def buffer(self) -> Tensor:
        """The gradients."""
        return self._values


def measure_exchange(wire: str, size: int, steps: int) -> dict[str, Any]:
    """A bucket of ``size`` bytes of fp32 gradients alone: copied in, averaged, copied out."""
    gradient = torch.ones(size // 4)
    bucket = torch.empty_like(gradient)
    world_size = dist.get_world_size()

    def run() -> None:
        torch.div(gradient, world_size, out=bucket)
        if wire == "bf16":
            average_bf16(None, _Bucket(bucket))  # type: ignore[arg-type]
        else:
            dist.all_reduce(bucket)
        gradient.copy_(bucket)

    sent = size // 2 if wire == "bf16" else size
    return {"measure": "exchange", "wire": wire, "bytes": sent} | timed(run, steps)


def measure_compute(plan: Mapping[str, Any], load: Mapping[str, Any]) -> dict[str, Any]:
    """A step without exchange, in as many processes."""
    model = Load(plan["gradient_numel"], work_of(load))
    run = _step(model, model)
    return {"measure": "compute", "load": load["load"]} | timed(run, plan["steps"])


def measure_both(
    plan: Mapping[str, Any], load: Mapping[str, Any], case: Mapping[str, Any]
) -> dict[str, Any]:
    """A step of data-parallel training, set up as the runner does from the config's ``ddp``."""
    options = DataParallelOptions.from_config(case)
    model = Load(plan["gradient_numel"], work_of(load))
    wrapped = DistributedDataParallel(model, **wrapper_arguments(model, options, False))
    compress(wrapped, options)
    found = timed(_step(wrapped, model), plan["steps"], _WARM_UP)
    return {"measure": "both", "load": load["load"], **case, **found}


def _step(wrapped: nn.Module, model: nn.Module) -> Callable[[], None]:
    x = torch.zeros(1, requires_grad=True)

    def run() -> None:
        wrapped(x).sum().backward()
        for parameter in model.parameters():
            parameter.grad = None

    return run


def measure(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Everything that the plan asks for, in its order."""
    rows = [
        measure_exchange(wire, size, plan["steps"])
        for wire in plan["wires"]
        for size in plan["sizes"]
    ]
    for load in plan["loads"]:
        rows.append(measure_compute(plan, load))
        rows += [measure_both(plan, load, case) for case in load["cases"]]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Join the group that torchrun describes, measure, and have rank 0 write the rows."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("plan", type=Path)
    flags.add_argument("out", type=Path)
    args = flags.parse_args(argv)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        rows = measure(json.loads(args.plan.read_text()))
        if dist.get_rank() == 0:
            write_json(args.out, rows)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    # DistributedDataParallel keeps the group, and so gloo's threads, beyond this point. One that
    # lets go of a tensor while the interpreter ends aborts the process (pytorch/pytorch#179291).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
