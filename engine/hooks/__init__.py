"""mmengine hooks."""

from anybev.engine.hooks.last_metrics import LastMetricsHook

__all__ = ["LastMetricsHook"]
