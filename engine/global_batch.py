"""The global batch: how an epoch divides over the processes, and the learning rate it needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from anybev.datasets.sampling import EpochSampler

# Rates that mmengine's schedulers take as they are, not as a share of the optimizer's.
_ABSOLUTE = ("eta_min", "eta_max")


def split_line(sampler: EpochSampler) -> str:
    """How an epoch divides, in one line: samples, steps, and what does not divide, counted."""
    ranks, size = sampler.world_size, sampler.batch_size
    processes = "1 process" if ranks == 1 else f"{ranks} processes"
    line = (
        f"train: {sampler.length} samples an epoch, {sampler.steps} steps of {processes} x {size} "
        f"= {ranks * size}"
    )
    if sampler.repeated:
        line += f"; {sampler.repeated} taken twice, so that all processes take as many"
    if sampler.dropped:
        line += f"; {sampler.dropped} left out, others in each epoch"
    return line


def scale_optimizer(optimizer: Any, ratio: float) -> tuple[list[float], list[float]]:
    """Multiply an optimizer's rates.

    Args:
        optimizer: of torch.
        ratio: new global batch over the config's.

    Returns:
        The distinct rates before and after.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * ratio
    before = sorted(set(rates))
    return before, [rate * ratio for rate in before]


def scale_schedulers(
    schedulers: Sequence[Any] | Mapping[str, Any] | None, ratio: float
) -> tuple[Any, list[str]]:
    """Multiply the rates that schedulers name themselves.

    Without this a schedule would end, or peak, at the rate of another batch: upstream scales the
    optimizer's rate alone.

    Args:
        schedulers: the config's ``param_scheduler``.
        ratio: new global batch over the config's.

    Returns:
        The scaled description, and what was changed: ``OneCycleLR eta_max 0.002 -> 0.001``.
    """
    if isinstance(schedulers, Mapping) and "type" not in schedulers:
        return schedulers, []  # one list an optimizer: none of our configs
    single = isinstance(schedulers, Mapping)
    changed: list[str] = []
    result = []
    for entry in [schedulers] if single else schedulers or []:
        scheduler = dict(entry)  # type: ignore[arg-type] # a Mapping, or pairs
        if str(scheduler["type"]).endswith("LR"):
            for key in _ABSOLUTE:
                if scheduler.get(key):
                    rate = scheduler[key]
                    scheduler[key] = rate * ratio
                    changed.append(f"{scheduler['type']} {key} {rate:g} -> {rate * ratio:g}")
        result.append(scheduler)
    if schedulers is None:
        return None, []
    return result[0] if single else result, changed


def base_batch_size(auto_scale_lr: Mapping[str, Any] | None) -> int | None:
    """The global batch that the config's learning rate belongs to; None where it does not say.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is not positive.
    """
    base = (auto_scale_lr or {}).get("base_batch_size")
    if base is None:
        return None
    if isinstance(base, bool) or not isinstance(base, int):
        raise TypeError(f"auto_scale_lr: base_batch_size must be a whole number, got {base!r}")
    if base < 1:
        raise ValueError(f"auto_scale_lr: base_batch_size must be at least 1, got {base}")
    return base
