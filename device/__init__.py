"""Which machine: backend facts, and operators as contracts with plain-PyTorch references."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.device, not device: a second copy of every class")

from anybev.device.backend import (
    Backend,
    Capability,
    Probe,
    current_backend,
    get_backend,
    widest_float,
)

__all__ = ["Backend", "Capability", "Probe", "current_backend", "get_backend", "widest_float"]
