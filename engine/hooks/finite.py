"""Stops training at a loss that is not a number, before it reaches the weights."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from torch import Tensor, nn

from anybev.datasets.sample import Batch
from anybev.engine.registry import HOOKS

_NAMED = 8


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient is NaN or infinite; the message says when, where and on which samples.

    Raised by every process, before the optimizer's step: the weights are those of the step before.
    """


class _Pass(NamedTuple):
    """One forward pass: what went in, and the losses that came out (detached)."""

    batch: Batch
    losses: dict[str, Tensor]


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Ends training at the first step whose loss or gradient is not finite.

    A bad loss makes the gradients of its process NaN, and averaging carries that to every process:
    all see it in the same step, without a message of their own, in the norm that clipping computes
    anyway. Only then does each look at its losses, and those with a bad one run the batch again to
    find the first module with a value that is not finite.

    Steps that loss scaling skips (float16) are no error while the losses are finite: a smaller
    scale mends them; ``max_skipped_steps`` in a row are.

    Args:
        max_skipped_steps: skipped steps in a row that end training.
        interval: steps between two looks at gradients that are not clipped.

    Raises:
        ValueError: an argument below 1.
    """

    priority = "VERY_HIGH"  # before checkpoints and logs of the step

    def __init__(self, max_skipped_steps: int = 20, interval: int = 1) -> None:
        for name, value in (("max_skipped_steps", max_skipped_steps), ("interval", interval)):
            if value < 1:
                raise ValueError(f"FiniteLossHook: {name} must be at least 1, got {value}")
        self.max_skipped_steps, self.interval = max_skipped_steps, interval
        self._passes: deque[_Pass] = deque(maxlen=1)
        self._handles: list[Any] = []
        self._step = self._skipped = 0

    def before_train(self, runner: Any) -> None:
        """Called once, before the first epoch."""
        wrapper = runner.optim_wrapper
        # All passes of a step, where gradients accumulate.
        self._passes = deque(maxlen=getattr(wrapper, "_accumulative_counts", 1))
        adapter = getattr(runner.model, "module", runner.model)
        self._handles = [
            adapter.register_forward_hook(self._after_forward, with_kwargs=True),
            wrapper.optimizer.register_step_pre_hook(lambda *_: self._before_step(runner)),
        ]

    def after_train(self, runner: Any) -> None:
        """Called once, after the last epoch."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._passes.clear()

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Called before each batch."""
        self._step = batch_idx + 1

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Called after each batch."""
        skipped = getattr(runner.optim_wrapper, "skipped_in_row", 0)
        if skipped >= self.max_skipped_steps:
            self._stop(runner, f"{skipped} steps in a row were skipped by loss scaling")
        # The optimizer was not called, and with it not ``_before_step``. All processes skip the
        # same steps, so that all of them ask.
        if skipped > self._skipped and any(all_gather_object(self._bad_loss())):
            self._stop(runner, "the step was skipped by loss scaling, which mends gradients alone")
        self._skipped = skipped

    def _bad_loss(self) -> bool:
        return not all(_finite(one.losses) for one in self._passes)

    def _after_forward(
        self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any
    ) -> dict[str, Tensor] | None:
        """Make the gradients of a bad loss NaN; times 1, those of a good one keep every bit."""
        if kwargs.get("mode") != "loss":
            return None
        losses = {name: loss.detach() for name, loss in output.items() if "loss" in name}
        self._passes.append(_Pass(kwargs["batch"], losses))
        total = torch.stack([loss.float().mean() for loss in losses.values()]).sum()
        # No branch: the host does not wait for the device.
        factor = torch.where(total.isfinite(), 1.0, math.nan)
        return {name: loss * factor if name in losses else loss for name, loss in output.items()}

    def _before_step(self, runner: Any) -> None:
        """Called by the optimizer, with averaged and clipped gradients."""
        recorded = runner.message_hub.log_scalars.get("train/grad_norm")
        if recorded is not None:
            norm = recorded.current()
        elif (runner.iter + 1) % self.interval == 0:
            optimizer = runner.optim_wrapper.optimizer
            gradients = [
                p.grad
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None
            ]
            norm = float(torch.stack([g.float().norm() for g in gradients]).norm())
        else:
            return
        if not math.isfinite(norm):
            self._stop(runner, f"norm of the gradients is {norm}")

    def _stop(self, runner: Any, reason: str) -> None:
        with runner.optim_wrapper.optim_context(runner.model):
            own = [_describe(runner.detector, one) for one in self._passes]
        tokens = [token for one in self._passes for token in one.batch.tokens]
        everywhere = all_gather_object(([text for text in own if text], tokens))
        when = f"epoch {runner.epoch + 1}, step {self._step} (iteration {runner.iter + 1})"
        lines = []
        for rank, (texts, _) in enumerate(everywhere):
            where = f"rank {rank} of {len(everywhere)}: " if len(everywhere) > 1 else ""
            lines += [where + text for text in texts]
        if lines:
            head = f"train: loss must be finite, got another in {when}; {reason}"
        else:
            head = (
                f"train: gradients must be finite, got others in {when} although the losses are; "
                f"{reason}"
            )
            seen = [token for _, named in everywhere for token in named]
            lines = [f"samples {_listed(seen)}"]
        raise NonFiniteLossError("\n  ".join([head, *lines]))


def _describe(detector: Any, one: _Pass) -> str:
    """What is bad in a pass, its samples and the first bad module; empty where nothing is."""
    bad = {name: float(loss) for name, loss in one.losses.items() if not _finite(loss)}
    if not bad:
        return ""
    values = ", ".join(f"{name} = {value}" for name, value in bad.items())
    place = first_offender(detector, one.batch)
    return f"{values}; samples {_listed(one.batch.tokens)}; {place}"


def first_offender(detector: Any, batch: Batch) -> str:
    """Run a batch again and name the first module with a value that is not finite.

    Args:
        detector: with ``loss(batch)``; its weights stay, running statistics move.
        batch: on its device.
    """
    found: list[str] = []
    handles = []

    def look(name: str, module: nn.Module, given: Any, output: Any) -> None:
        if found or _finite(output):
            return
        weights = [n for n, p in module.named_parameters(recurse=False) if not _finite(p)]
        part = f"its {weights[0]}" if weights else "its output"
        if not weights and not _finite(given):
            part = "already its input"
        found.append(f"first bad module: {name} ({type(module).__name__}), {part}")

    for name, module in detector.named_modules():
        if name:
            hook: Any = lambda m, given, out, name=name: look(name, m, given, out)  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    try:
        with torch.no_grad():
            losses = detector.loss(batch)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    if not _finite(losses):
        return "every module's output is finite: it is in the losses themselves"
    return "a second pass over the same batch is finite: dropout draws anew"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _finite(value: Any) -> bool:
    """Whether every floating-point number in a tensor or a container of them is finite."""
    return all(bool(t.isfinite().all()) for t in _tensors(value) if t.is_floating_point())


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
