"""Lift and splat of BEVFusion's six cameras, beside the lifted volume in PyTorch."""

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from anybev.benchmark.ops.harness import (
    OURS,
    REFERENCE,
    Context,
    Row,
    Side,
    on_reference,
    thread_count,
)
from anybev.benchmark.ops.rig import (
    CELL_SIZE_M,
    FEATURE_SIZE,
    GRID,
    IMAGE_SIZE,
    LOWER_M,
    Rig,
    load_rig,
)
from anybev.device import Backend, Capability
from anybev.device.ops.lift_splat import lift_splat

NAME = "lift_splat"
PEER = "materialised torch"

_CASES = ("test augmentation", "turned frames")
_CHANNELS = 80
_DEPTHS_M = torch.arange(1.0, 60.0, 0.5)
# The largest turn of a picture in training, and a turn of the lidar frame.
_IMAGE_TURN_DEG, _LIDAR_TURN_DEG = 5.4, 30.0

Splat = Callable[[Tensor], Tensor]


def _turned(rig: Rig) -> Rig:
    """Pictures turned about their centre, lidar frame about z: vertical runs become short."""
    image, lidar = (math.radians(v) for v in (_IMAGE_TURN_DEG, _LIDAR_TURN_DEG))
    cos, sin = math.cos(image), math.sin(image)
    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    centre = torch.tensor([IMAGE_SIZE[1] / 2, IMAGE_SIZE[0] / 2], dtype=torch.float64)
    picture = torch.eye(4, dtype=torch.float64)
    picture[:2, :2], picture[:2, 3] = turn, centre - turn @ centre
    back = torch.eye(4, dtype=torch.float64)
    cos, sin = math.cos(lidar), math.sin(lidar)
    back[:2, :2] = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    return replace(rig, img_aug_matrix=picture @ rig.img_aug_matrix, lidar2cam=rig.lidar2cam @ back)


def _fused(rays_m: Tensor, origins_m: Tensor, depths_m: Tensor, logits: Tensor) -> Tensor:
    return lift_splat(logits, rays_m, origins_m, depths_m, LOWER_M, CELL_SIZE_M, GRID)


def _materialised(rays_m: Tensor, origins_m: Tensor, depths_m: Tensor, logits: Tensor) -> Tensor:
    """Softmax, lifted volume, mask, index_add: one sample."""
    weight, context = logits[0].split([len(depths_m), _CHANNELS], 1)
    points = depths_m[:, None, None, None] * rays_m[0][:, None] + origins_m[0][:, None, None, None]
    lower, size = points.new_tensor(LOWER_M), points.new_tensor(CELL_SIZE_M)
    cell = ((points - lower) / size).long()
    kept = ((cell >= 0) & (cell < cell.new_tensor(GRID))).all(-1)
    x, y, z = cell[kept].unbind(1)
    volume = weight.softmax(1)[:, None] * context[:, :, None]
    lifted = volume.permute(0, 2, 3, 4, 1)[kept]
    nx, ny, nz = GRID
    bev: Tensor = lifted.new_zeros(nx * ny * nz, _CHANNELS)
    bev = bev.index_add(0, (x * ny + y) * nz + z, lifted)
    return bev.view(1, nx, ny, nz * _CHANNELS).permute(0, 3, 1, 2)


def _trained(splat: Splat, logits: Tensor, grad: Tensor) -> Side:
    """Forward and backward."""
    leaf = logits.clone().requires_grad_()
    return lambda: torch.autograd.grad(splat(leaf), leaf, grad)


def _peak_extra_mib(run: Side, backend: Backend) -> float | None:
    """How far one run takes the memory in use above where it was; None where nobody counts."""
    if Capability.PEAK_MEMORY_RESET not in backend.capabilities:
        return _peak_extra_of_process_mib(run)
    run()
    backend.reset_peak_memory()
    before = backend.peak_memory_mib()
    run()
    return backend.peak_memory_mib() - before


def _peak_extra_of_process_mib(run: Side) -> float | None:
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or not (reset.exists() and status.exists()):
        return None
    run()
    trim(0)
    before = _memory_kb(status, "VmRSS")
    reset.write_text("5")
    result = run()
    peak = _memory_kb(status, "VmHWM")
    del result
    return (peak - before) / 1024


def _memory_kb(status: Path, name: str) -> int:
    line = next(v for v in status.read_text().splitlines() if v.startswith(name))
    return int(line.split()[1])


def _scratch_kib(run: Side) -> float:
    """Allocations of one run on one thread apart from the largest, its result."""
    with thread_count(1), torch.profiler.profile(profile_memory=True) as profile:
        run()
    taken = sorted(e.self_cpu_memory_usage for e in profile.events())
    return float(sum(v for v in taken[:-1] if v > 0)) / 1024


def _notes(ctx: Context, rig: Rig, sides: dict[str, Side], ours: Side) -> dict[str, str]:
    notes = {}
    for name, run in sides.items():
        extra_mib = _peak_extra_mib(run, ctx.backend)
        notes[name] = "" if extra_mib is None else f"peak {extra_mib:.0f} MiB, result included"
    if ctx.on_cpu:
        notes[OURS] += f"; scratch {_scratch_kib(ours):.0f} KiB a thread"
    notes[OURS] += f"; {rig.origin}"
    return notes


def rows(ctx: Context) -> Iterator[Row]:
    """118 depths, 80 channels, 360 x 360 cells: test augmentation, then turned frames.

    All sides start from the logits; the peer skips upstream's sorting, which is not needed for a
    sum. Every side is one call on one sample, memory of the result included.
    """
    height, width = FEATURE_SIZE
    logits = ctx.put(torch.randn(1, 6, len(_DEPTHS_M) + _CHANNELS, height, width))
    grad = ctx.put(torch.randn(1, *GRID[:2], _CHANNELS)).permute(0, 3, 1, 2)
    shape: dict[str, int | list[int]]
    shape = {"logits": list(logits.shape), "depths": len(_DEPTHS_M), "grid": list(GRID)}
    for case, rig in zip(_CASES, (load_rig(), _turned(load_rig())), strict=True):
        geometry = [ctx.put(v[None].contiguous()) for v in rig.rays()] + [ctx.put(_DEPTHS_M)]
        ours, peer = partial(_fused, *geometry), partial(_materialised, *geometry)
        run, train = partial(ours, logits), _trained(ours, logits, grad)
        forward: dict[str, Side] = {OURS: run, PEER: partial(peer, logits)}
        training: dict[str, Side] = {OURS: train, PEER: _trained(peer, logits, grad)}
        if case == _CASES[0]:  # once: seconds a run
            forward[REFERENCE] = on_reference(NAME, run)
        for direction, sides in (("forward", forward), ("forward + backward", training)):
            notes = _notes(ctx, rig, sides, run)
            for threads in ctx.threads:
                yield from ctx.compare(
                    NAME,
                    case,
                    sides,
                    shape=shape,
                    direction=direction,
                    threads=threads,
                    notes=notes,
                )
