"""What became of a patch."""

from dataclasses import dataclass, replace
from enum import StrEnum

from anybev import envs
from anybev.patches.ledger import Entry


class State(StrEnum):
    """Result of applying one patch."""

    APPLIED = "APPLIED"
    ALREADY = "ALREADY"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Outcome:
    """State of one entry of the ledger, and the reason where it was not applied."""

    entry: Entry
    state: State
    reason: str = ""

    def repeated(self) -> "Outcome":
        """The same, asked for a second time."""
        return replace(self, state=State.ALREADY) if self.state is State.APPLIED else self

    def __str__(self) -> str:
        return f"{self.entry.id} ({self.entry.target}): {self.state}: {self.reason}"


class PatchError(envs.MachineError):
    """The host cannot be patched; nothing was changed.

    Attributes:
        outcomes: of every entry that was looked at.
    """

    def __init__(self, message: str, outcomes: list[Outcome] | None = None) -> None:
        super().__init__(message)
        self.outcomes = outcomes or []
