"""Heartbeats of a job in its status.json."""

import time
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook

from anybev.engine.registry import HOOKS
from anybev.reporting.status import STATUS_FILE, append_status


@HOOKS.register_module()
class StatusHook(Hook):
    """Appends a ``RUNNING`` event now and then, for ``anybev status``.

    The first step writes one, then each ``interval_s`` seconds, each epoch and each evaluation.
    Only the first process writes. What begins and ends the job: ``anybev.engine.job_events``.

    Args:
        interval_s: least seconds between two events of steps.
    """

    priority = "LOWEST"  # after everything else of a step

    def __init__(self, interval_s: float = 10.0) -> None:
        if interval_s < 0:
            raise ValueError(f"StatusHook: interval_s must be 0 or more, got {interval_s}")
        self.interval_s = interval_s
        self._kind = "train"
        self._last = -float("inf")
        self._failed = False
        self._place: dict[str, Any] = {}

    def before_test(self, runner: Any) -> None:
        """Called before an evaluation of its own."""
        self._kind = "evaluate"

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called after each step."""
        self._place = {
            "epoch": runner.epoch + 1,
            "step": runner.iter + 1,
            "steps": runner.max_iters,
            "eta_s": runner.message_hub.runtime_info.get("eta"),
        }
        if self._due():
            self._write(runner, f"training, epoch {runner.epoch + 1}", self._train_kpi(runner))

    def after_train_epoch(self, runner: Any) -> None:
        """Called after each epoch."""
        self._write(runner, f"trained epoch {runner.epoch + 1}", self._train_kpi(runner))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called after each batch of an evaluation in training."""
        if self._due():
            self._write(runner, f"evaluating, batch {batch_idx + 1}/{len(runner.val_dataloader)}")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Called after each evaluation in training."""
        self._write(runner, "evaluated", metrics)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called after each batch of an evaluation of its own."""
        self._place = {
            "step": batch_idx + 1,
            "steps": len(runner.test_dataloader),
            "eta_s": runner.message_hub.runtime_info.get("eta"),
        }
        if self._due():
            self._write(runner, "evaluating")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Called after an evaluation of its own."""
        self._write(runner, "evaluated", metrics)

    def _due(self) -> bool:
        return time.monotonic() - self._last >= self.interval_s

    @staticmethod
    def _train_kpi(runner: Any) -> dict[str, float]:
        scalars = runner.message_hub.log_scalars
        window = runner.log_processor.window_size
        kpi = {
            name: scalars[f"train/{name}"].mean(window)
            for name in ("loss", "time", "data_time")
            if f"train/{name}" in scalars
        }
        if kpi.get("time"):
            batch = runner.train_dataloader.batch_size * get_world_size()
            kpi["samples_per_s"] = batch / kpi["time"]
        return kpi

    def _write(self, runner: Any, message: str, kpi: dict[str, float] | None = None) -> None:
        if not is_main_process():
            return
        self._last = time.monotonic()
        try:
            append_status(
                Path(runner.work_dir) / STATUS_FILE,
                status="RUNNING",
                kind=self._kind,
                message=message,
                kpi=kpi,
                world_size=get_world_size(),
                **self._place,
            )
        except OSError as error:  # weeks of training are worth more than a heartbeat
            if not self._failed:
                runner.logger.warning("%s lacks events of this job: %s", STATUS_FILE, error)
            self._failed = True
