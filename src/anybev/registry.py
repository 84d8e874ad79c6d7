"""Where mmengine looks for the registries of the scope ``anybev``."""

from anybev.engine import registry

__all__ = ["registry"]
