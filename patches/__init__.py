"""The bridge to an installed mmdetection3d: its models on AnyBEV's operators."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.patches, not patches: a second copy of every class")

from anybev.patches.application import applied, apply, undo
from anybev.patches.outcome import Outcome, PatchError, State

__all__ = ["Outcome", "PatchError", "State", "applied", "apply", "undo"]
