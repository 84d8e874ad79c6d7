"""How fast a training is: the time that is left, and what it measured in the end."""

import math
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook

import anybev
from anybev.device import Capability, current_backend
from anybev.device.report import commit, processor
from anybev.engine.registry import HOOKS

_MAX_WARMUP_STEPS = 10
_RECENT_STEPS = 200
_MAX_LOSS_STEPS = 50
_PRECISIONS = {None: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def warmup_steps(steps: int) -> int:
    """How many first steps of a start are left out of its speed: a fifth, 1 to 10, none of one."""
    return min(max(1, min(steps // 5, _MAX_WARMUP_STEPS)), max(steps - 1, 0))


def precision(optim_wrapper: Any) -> str:
    """``fp32``, or the dtype that autocast really computes in: ``fp16``, ``bf16``."""
    dtype = getattr(optim_wrapper, "dtype", None)
    return _PRECISIONS.get(dtype, str(dtype))


def _history(runner: Any, name: str) -> Sequence[float]:
    """All values of a scalar since this process started; empty where nothing recorded it."""
    recorded = runner.message_hub.log_scalars.get(f"train/{name}")
    values: list[float] = [] if recorded is None else recorded.data[0].tolist()
    return values


def _median(values: Sequence[float]) -> float:
    """Median without the first steps; NaN of none."""
    kept = values[warmup_steps(len(values)) :]
    return median(kept) if kept else math.nan


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Corrects the ETA, and measures the training for ``metrics.json``.

    mmengine's ETA takes the mean of all steps, the slow first ones included, and leaves out the
    evaluations between epochs. Here it is the mean of the newest 200 steps without the first ones
    of this start, and the evaluations to come as long as the last one took (once there was one).

    ``runner.train_measures`` holds the result on every rank after training: see
    docs/watching.md for its keys.
    """

    priority = "NORMAL"  # after the timer, registered before it; before the logger

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._seen = 0
        self._first_step = 0
        self._start = self._val_start = time.monotonic()
        self._val_s = 0.0

    def before_train(self, runner: Any) -> None:
        """Called once; a resumed run starts at its step."""
        self._first_step = runner.iter
        self._start = time.monotonic()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called after each step."""
        recorded = runner.message_hub.log_scalars.get("train/time")
        if recorded is None:
            return
        self._seen += 1
        self._recent.append(recorded.current())
        gone = self._seen - len(self._recent)
        kept = list(self._recent)[max(0, warmup_steps(self._seen) - gone) :]
        step_s = sum(kept) / len(kept)
        left = runner.max_iters - runner.iter - 1
        eta_s = step_s * left + self._val_s * self._evaluations_left(runner)
        runner.message_hub.update_info("eta", eta_s)

    def before_val(self, runner: Any) -> None:
        """Called before each evaluation."""
        self._val_start = time.monotonic()

    def after_val(self, runner: Any) -> None:
        """Called after each evaluation."""
        self._val_s = time.monotonic() - self._val_start

    def after_train(self, runner: Any) -> None:
        """Called once, after the last epoch."""
        steps = len(_history(runner, "time"))
        last = max(1, min(steps // 5, _MAX_LOSS_STEPS))
        losses = _history(runner, "loss")[-last:]
        own = {
            "steps": steps,
            "step_time_s": _median(_history(runner, "time")),
            "data_time_s": _median(_history(runner, "data_time")),
            "memory_mb": current_backend().peak_memory_mib(),
            "loss": sum(losses) / len(losses) if losses else math.nan,
            "loss_steps": len(losses),
        }
        ranks = all_gather_object(own)
        if steps:  # none when a finished run is resumed: all ranks agree
            runner.train_measures = self._summary(runner, ranks)

    @staticmethod
    def _evaluations_left(runner: Any) -> int:
        loop = runner.train_loop
        if runner.val_loop is None:
            return 0
        epochs = range(runner.epoch + 1, runner.max_epochs + 1)
        return sum(
            1
            for epoch in epochs
            if epoch >= loop.val_begin
            and (epoch % loop.val_interval == 0 or epoch == runner.max_epochs)
        )

    def _summary(self, runner: Any, ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        by_rank = {
            name: [rank[name] for rank in ranks]
            for name in ("step_time_s", "data_time_s", "memory_mb")
        }
        slowest = {name: max(values) for name, values in by_rank.items()}
        batch = runner.train_dataloader.batch_size * get_world_size()
        steps = ranks[0]["steps"]
        backend = current_backend()
        numbered = Capability.INDEXED in backend.capabilities
        return {
            "samples_per_s": batch / slowest["step_time_s"],
            **slowest,
            "data_time_share": slowest["data_time_s"] / slowest["step_time_s"],
            "loss": sum(rank["loss"] for rank in ranks) / len(ranks),
            "loss_steps": ranks[0]["loss_steps"],
            "steps": steps,
            "warmup_steps": warmup_steps(steps),
            "first_step": self._first_step + 1,
            "epochs": runner.max_epochs,
            "seconds": time.monotonic() - self._start,
            "world_size": get_world_size(),
            "global_batch": batch,
            "precision": precision(runner.optim_wrapper),
            "backend": backend.name,
            "device": backend.probe().detail if numbered else processor(),
            "threads": torch.get_num_threads(),
            "host": socket.gethostname(),
            "config": Path(runner.cfg.filename).name if runner.cfg.filename else None,
            "seed": runner.seed,
            "anybev": anybev.__version__,
            "torch": torch.__version__,
            "commit": commit(),
            "by_rank": by_rank,
        }
