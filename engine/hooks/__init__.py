"""mmengine hooks."""

from anybev.engine.hooks.bad_samples import BadSamplesHook
from anybev.engine.hooks.last_metrics import LastMetricsHook

__all__ = ["BadSamplesHook", "LastMetricsHook"]
