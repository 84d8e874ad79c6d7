"""Keeps what the newest evaluation measured, for whoever started the run."""

from typing import Any

from mmengine.hooks import Hook

from anybev.engine.registry import HOOKS


@HOOKS.register_module()
class LastMetricsHook(Hook):
    """Stores the metrics of the newest validation in ``runner.last_metrics``."""

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Called by the validation loop."""
        runner.last_metrics = dict(metrics or {})
