"""What ``anybev env`` prints: the machine, its backends, and who answers each operator on each."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def _cell(here: str, installed: str) -> str:
    return here if here == installed else f"{here} ({installed})"


def operator_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """A header and one row an operator: who answers it on each backend.

    In brackets: who would once this installation were one for that backend.

    Args:
        facts: ``anybev.device.report.environment()``.
    """
    states = {name: probe["state"] for name, probe in facts["backends"].items()}
    header = [name if s == "available" else f"{name} ({s})" for name, s in states.items()]
    rows = [["operator", *header]]
    for operator, here in facts["ops"].items():
        installed = facts["installable"][operator]
        rows.append([operator, *(_cell(here[name], installed[name]) for name in states)])
    return rows


def print_environment(facts: Mapping[str, Any]) -> None:
    """Print the facts as text and two tables.

    Args:
        facts: ``anybev.device.report.environment()``.
    """
    console = Console(soft_wrap=True, highlight=False)
    packages = ", ".join(f"{k} {v}" for k, v in facts["packages"].items() if v)
    console.print(f"anybev {facts['anybev']} · python {facts['python']} · torch {facts['torch']}")
    console.print(f"{facts['platform']} · {facts['threads']} threads · {packages}")
    console.print(f"{facts['kernels']}; backend in use: {facts['backend']}")
    backends = Table("backend", "state", "detail", "devices")
    for name, probe in facts["backends"].items():
        backends.add_row(name, probe["state"], probe["detail"], str(probe["devices"]))
    console.print(backends)
    header, *rows = operator_rows(facts)
    operators = Table(*header)
    for row in rows:
        operators.add_row(*row)
    console.print(operators)
    if any("(" in cell for row in rows for cell in row):
        console.print("in brackets: what an installation for that backend uses")
