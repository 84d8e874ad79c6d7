"""One training step of a small BEVFusion against the CPU, and the time that steps take."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from anybev.datasets.sample import Batch
from anybev.device import Backend, installed
from anybev.engine.builder import build_detector
from anybev.engine.check.compare import (
    AUTOCAST_GRADIENT_LIMIT,
    AUTOCAST_LOSS_LIMIT,
    AUTOCAST_PROPOSAL_LIMIT,
    MODEL_LIMIT,
    short,
    worst_error,
)
from anybev.engine.check.operators import all_on_reference, operators_on
from anybev.engine.check.results import Row, Status, failed, judged, timed
from anybev.engine.check.tiny import tiny_batch, tiny_model_cfg
from anybev.engine.check.tiny_cameras import tiny_camera_batch, tiny_camera_cfg

SECTION = "training step"
_RANDOM = ("dropout", "ffn_drop", "drop_path_rate")
_CPU = torch.device("cpu")
#: Gradients are compared over all parameters at once: in a single one a value near 0 has no
#: relative error worth naming.
_WHOLE = "all"


@dataclass(frozen=True)
class Outcome:
    """What one step left behind, on the CPU.

    Attributes:
        losses: by name.
        gradients: by parameter.
        buffers: floating ones, by name.
    """

    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


def without_chance(node: Any) -> Any:
    """A model's config with every dropout at 0: devices draw different numbers."""
    if isinstance(node, Mapping):
        return {
            key: 0.0 if key in _RANDOM else without_chance(value) for key, value in node.items()
        }
    return node


def _lidar() -> tuple[Any, Batch]:
    return tiny_model_cfg(), tiny_batch()


def _cameras() -> tuple[Any, Batch]:
    return tiny_camera_cfg(), tiny_camera_batch()


MODELS: dict[str, Callable[[], tuple[Any, Batch]]] = {"lidar": _lidar, "lidar, cameras": _cameras}


@contextmanager
def _same_weights() -> Iterator[None]:
    """Torch's CPU generator at a fixed state inside the block; the state before comes back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _build(model_cfg: Any) -> nn.Module:
    with _same_weights():
        return build_detector(without_chance(model_cfg))


def take_step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Forward and backward; the losses, whose sum was differentiated."""
    model.zero_grad(set_to_none=True)
    losses: dict[str, Tensor] = model.loss(batch)  # type: ignore[operator]
    torch.stack([value for name, value in losses.items() if "loss" in name]).sum().backward()
    return losses


def _outcome(model: nn.Module, batch: Batch) -> Outcome:
    losses = take_step(model, batch)
    return Outcome(
        losses={k: v.detach().cpu() for k, v in losses.items()},
        gradients={k: p.grad.cpu() for k, p in model.named_parameters() if p.grad is not None},
        buffers={
            k: v.cpu() for k, v in model.named_buffers() if v.is_floating_point() and v.numel()
        },
    )


def _apart(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Length of the difference of all values over the length of the expected ones."""
    wanted = _flat(expected)
    return float((_flat(actual) - wanted).norm() / wanted.norm())


def _flat(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in values.values()])


def _judge(row: Row, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Row:
    if actual.keys() != expected.keys():
        return failed(row, f"{', '.join(sorted(actual.keys() ^ expected.keys()))} on one side only")
    if row.name == "gradients":
        return judged(row, worst_error(_flat(actual), _flat(expected)), MODEL_LIMIT, _WHOLE)
    errors = [(worst_error(actual[name], value), name) for name, value in expected.items()]
    worst, where = max(errors)
    return judged(row, worst, MODEL_LIMIT, where)


def step_rows(backend: Backend, name: str) -> list[Row]:
    """Losses, gradients and buffers of one step on the device against the CPU's references.

    TF32 and HF32 are off meanwhile.

    Args:
        backend: present on this machine.
        name: of ``MODELS``.
    """
    rows = [
        Row(SECTION, part, name, Status.PASS, dtype="float32")
        for part in ("losses", "gradients", "buffers")
    ]
    try:
        model_cfg, batch = MODELS[name]()
        with operators_on(all_on_reference()):
            expected = _outcome(_build(model_cfg), batch)
        device = backend.device()
        model = _build(model_cfg).to(device)
        with installed.full_float32(backend), timed() as clock:
            actual = _outcome(model, batch.to(device))
    except Exception as error:  # whatever the device raises is the step's failure
        return [failed(rows[0], error)]
    rows = [replace(row, seconds=clock.seconds) for row in rows]
    return [_judge(row, getattr(actual, row.name), getattr(expected, row.name)) for row in rows]


def _autocast_limit(loss: str) -> float:
    """Losses of a layer are those of the proposals that the heatmap's largest values choose."""
    return AUTOCAST_PROPOSAL_LIMIT if loss.startswith("layer_") else AUTOCAST_LOSS_LIMIT


def mixed_precision_rows(backend: Backend) -> list[Row]:
    """Losses and gradients under the backend's autocast against the CPU's in float32.

    Single gradients have few bits; what is compared is their direction and length as a whole.

    Args:
        backend: present on this machine.
    """
    rows = [
        Row(SECTION, part, "autocast", Status.PASS, dtype=short(backend.amp_dtype))
        for part in ("losses", "gradients")
    ]
    try:
        model_cfg, batch = _cameras()
        with operators_on(all_on_reference()):
            expected = _outcome(_build(model_cfg), batch)
        device = backend.device()
        model = _build(model_cfg).to(device)
        with timed() as clock, backend.autocast():
            actual = _outcome(model, batch.to(device))
        apart = _apart(actual.gradients, expected.gradients)
    except Exception as error:  # whatever the device raises is the step's failure
        return [failed(rows[0], error)]
    losses, gradients = (replace(row, seconds=clock.seconds) for row in rows)
    found = [
        (worst_error(actual.losses[name], value), _autocast_limit(name), name)
        for name, value in expected.losses.items()
    ]
    worst, limit, where = max(found, key=lambda entry: entry[0] / entry[1])
    return [
        judged(losses, worst, limit, where),
        judged(gradients, apart, AUTOCAST_GRADIENT_LIMIT, _WHOLE),
    ]


def timing_row(backend: Backend, steps: int, progress: Callable[[], None] = lambda: None) -> Row:
    """Median and spread of training steps, lidar and cameras, after two that warm up.

    Args:
        backend: present on this machine.
        steps: how many are timed.
        progress: called after each step.
    """
    row = Row("timing", "training step", f"{steps} steps, lidar and cameras", Status.PASS)
    try:
        times = _step_times_ms(backend, steps, progress)
    except Exception as error:  # whatever the device raises is the row's failure
        return failed(row, error)
    low, median, high = (
        statistics.quantiles(times, n=4, method="inclusive") if steps > 1 else times * 3
    )
    message = f"median {median:.1f} ms, quartiles {low:.1f} to {high:.1f} ms, most {max(times):.1f}"
    return replace(row, dtype="float32", seconds=sum(times) / 1e3, message=message)


def _step_times_ms(backend: Backend, steps: int, progress: Callable[[], None]) -> list[float]:
    model_cfg, batch = _cameras()
    device = backend.device()
    model, batch = _build(model_cfg).to(device), batch.to(device)
    adamw: Any = backend.fused_optimizer("AdamW") or torch.optim.AdamW
    optimizer = adamw(model.parameters(), lr=1e-5)
    times = []
    for index in range(steps + 2):
        backend.synchronize()
        start = time.perf_counter()
        losses = take_step(model, batch)
        optimizer.step()
        backend.synchronize()
        if not all(bool(value.isfinite().all()) for value in losses.values()):
            raise RuntimeError(f"losses of step {index + 1} are not finite")
        if index > 1:
            times.append((time.perf_counter() - start) * 1e3)
        progress()
    return times
