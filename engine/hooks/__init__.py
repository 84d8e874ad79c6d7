"""mmengine hooks."""

from anybev.engine.hooks.bad_samples import BadSamplesHook
from anybev.engine.hooks.last_metrics import LastMetricsHook
from anybev.engine.hooks.run_facts import RunFactsHook

__all__ = ["BadSamplesHook", "LastMetricsHook", "RunFactsHook"]
