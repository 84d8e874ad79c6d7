"""mmengine hooks."""

from anybev.engine.hooks.bad_samples import BadSamplesHook
from anybev.engine.hooks.checkpoint import CheckpointHook
from anybev.engine.hooks.finite import FiniteLossHook
from anybev.engine.hooks.last_metrics import LastMetricsHook
from anybev.engine.hooks.run_facts import RunFactsHook
from anybev.engine.hooks.signals import StopOnSignalHook
from anybev.engine.hooks.status import StatusHook
from anybev.engine.hooks.throughput import ThroughputHook

__all__ = [
    "BadSamplesHook",
    "CheckpointHook",
    "FiniteLossHook",
    "LastMetricsHook",
    "RunFactsHook",
    "StatusHook",
    "StopOnSignalHook",
    "ThroughputHook",
]
