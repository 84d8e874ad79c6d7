"""Writes where and how a run was made, for its report."""

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook

from anybev.device import current_backend
from anybev.device.report import commit, environment, processor
from anybev.engine.registry import HOOKS
from anybev.reporting.status import write_json

FILE = "environment.json"
_MACHINE = ("anybev", "python", "platform", "torch", "threads", "packages", "backend", "kernels")
_PHASES = ("train", "val", "test")


@HOOKS.register_module()
class RunFactsHook(Hook):
    """Keeps ``environment.json`` in the folder of the log, beside the curves.

    It holds the versions, the device, the commit, the config's name, seconds and peak memory, and
    for each phase the mean time an iteration took and the part of it that waited for data. Written
    when a phase begins and after each evaluation, so an interrupted run has it too.
    """

    priority = "LOW"  # after the timer, whose times it reads

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._start = time.monotonic()

    def before_run(self, runner: Any) -> None:
        """Called once, before training or evaluation."""
        backend = current_backend()
        machine = environment()
        self._start = time.monotonic()
        self._facts = {key: machine[key] for key in _MACHINE}
        self._facts.update(
            commit=commit(),
            host=platform.node(),
            processor=processor(),
            cores=os.cpu_count(),
            device=backend.probe().detail,
            world_size=get_world_size(),
            config=Path(runner.cfg.filename).name if runner.cfg.filename else None,
            mixed_precision=str(runner.cfg.get("optim_wrapper", {}).get("type", "")).startswith(
                "Amp"
            ),
            seed=runner.seed,
            command=[Path(sys.argv[0]).name, *sys.argv[1:]],
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        self._write(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Called by the validation loop."""
        self._evaluated(runner, metrics)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Called by the test loop."""
        self._evaluated(runner, metrics)

    def after_run(self, runner: Any) -> None:
        """Called once, at the end."""
        self._write(runner)

    def _evaluated(self, runner: Any, metrics: dict[str, float] | None) -> None:
        self._facts["fps"] = (metrics or {}).get("FPS")
        self._write(runner)

    def _write(self, runner: Any) -> None:
        if not is_main_process():
            return
        times = {}
        for phase in _PHASES:
            recorded = runner.message_hub.log_scalars.get(f"{phase}/time")
            if recorded is not None:
                waited = runner.message_hub.log_scalars[f"{phase}/data_time"]
                times[phase] = {"iteration_s": recorded.mean(), "data_s": waited.mean()}
        self._facts.update(
            seconds=time.monotonic() - self._start,
            peak_memory_mib=current_backend().peak_memory_mib(),
            times=times,
            bad_samples=getattr(runner, "bad_samples", {}),
        )
        write_json(Path(runner.log_dir) / FILE, self._facts)
