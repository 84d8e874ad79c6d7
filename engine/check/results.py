"""What one check found, as data that a table and a JSON file are made of."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """Outcome of one row."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Row:
    """One thing that was checked.

    Attributes:
        section: ``environment``, ``memory``, ``operators``, ``training step``, ``collectives`` or
            ``timing``.
        name: operator, version or quantity.
        case: input, direction or device.
        status: pass, fail, or skip with the reason in ``message``.
        dtype: of the floating inputs, ``float32``; "" where there are none.
        implementation: who computed it: ``native``, ``vendor``, ``reference`` ...
        worst: largest error found, relative to the largest expected value; None where nothing was
            compared.
        limit: largest error that passes.
        seconds: how long the device took, the first call's preparations included.
        message: why it failed or was skipped, or what was found.
        remedy: what a user can do about a failure.
    """

    section: str
    name: str
    case: str
    status: Status
    dtype: str = ""
    implementation: str = ""
    worst: float | None = None
    limit: float | None = None
    seconds: float | None = None
    message: str = ""
    remedy: str = ""

    def flat(self) -> dict[str, Any]:
        """The row as a JSON object; an error that is not finite becomes None."""
        values = asdict(self) | {"status": str(self.status)}
        if self.worst is not None and not math.isfinite(self.worst):
            values["worst"] = None
        return values


def judged(row: Row, worst: float, limit: float, where: str = "") -> Row:
    """The row with its error, failed when that is above the limit.

    Args:
        row: as it would pass.
        worst: error found; NaN fails.
        limit: largest that passes.
        where: what had that error, for the message.
    """
    row = replace(row, worst=worst, limit=limit)
    if worst <= limit:
        return row
    what = f"{where}: " if where else ""
    return replace(row, status=Status.FAIL, message=f"{what}error {worst:.2e} is above {limit:.0e}")


def failed(row: Row, error: BaseException | str) -> Row:
    """The row failed, with the error's kind and first line."""
    if isinstance(error, BaseException):
        lines = str(error).strip().splitlines() or [""]
        error = f"{type(error).__name__}: {lines[0]}"
    return replace(row, status=Status.FAIL, message=error)


class Clock:
    """Seconds of a block that ``timed`` measured."""

    seconds = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    """Measure the wall-clock seconds of a block."""
    clock, start = Clock(), time.perf_counter()
    try:
        yield clock
    finally:
        clock.seconds = time.perf_counter() - start
