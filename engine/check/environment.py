"""Whether what is installed fits together."""

from collections.abc import Mapping

from anybev.device import Backend, installed
from anybev.engine.check.results import Row, Status

SECTION = "environment"


def environment_rows(backend: Backend, found: Mapping[str, str]) -> list[Row]:
    """One row that passes with the versions, or one failed row for each mismatch.

    Args:
        backend: whose installation is judged.
        found: ``installed.facts(backend)``.
    """
    text = ", ".join(f"{name} {value}" for name, value in found.items() if value)
    wrong = installed.complaints(backend.name, found)
    if wrong:
        return [
            Row(SECTION, "versions", backend.name, Status.FAIL, message=message)
            for message in wrong
        ]
    return [Row(SECTION, "versions", backend.name, Status.PASS, message=text)]
