"""The whole check: every section in turn, one report."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

import anybev
from anybev import envs
from anybev.device import Backend, current_backend, get_backend, installed
from anybev.device.backend import ProbeState
from anybev.device.report import commit, environment
from anybev.engine.check.case import Case
from anybev.engine.check.collectives import PROGRAM, collective_rows
from anybev.engine.check.environment import environment_rows
from anybev.engine.check.memory import memory_rows
from anybev.engine.check.operators import OperatorCheck, chosen_cases
from anybev.engine.check.results import Row, Status
from anybev.engine.check.step import MODELS, mixed_precision_rows, step_rows, timing_row

SCHEMA = 1
_QUICK_STEPS = 3
Progress = Callable[[int, int], None]
ProgressBar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Request:
    """What is checked.

    Attributes:
        operators: by name; all, and everything that is no operator, where there is none.
        device: ``cpu``, ``cuda`` or ``npu``; None for the one in use.
        steps: training steps that are timed.
        quick: fewer steps, operators in float32 and one half precision.
        program: how a process of the collectives' check is started.
    """

    operators: Sequence[str] = ()
    device: str | None = None
    steps: int = 50
    quick: bool = False
    program: Sequence[str] = PROGRAM


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        backend: name of the backend.
        stand_in: what stands for the hardware, else "".
        facts: versions and chip.
        environment: what ``anybev env --json`` prints.
        rows: everything that was checked.
        seconds: how long it took.
        date: when it began, UTC.
    """

    backend: str
    facts: dict[str, str]
    environment: dict[str, Any]
    stand_in: str = ""
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    date: str = ""

    @property
    def evidence(self) -> str:
        """Whether the report is evidence about hardware."""
        return "simulated" if self.stand_in else "hardware"

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(row.status is not Status.FAIL for row in self.rows)

    def counts(self) -> dict[str, int]:
        """Rows by outcome."""
        counted = Counter(str(row.status) for row in self.rows)
        return {str(status): counted[str(status)] for status in Status}

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "schema": SCHEMA,
            "anybev": anybev.__version__,
            "commit": commit(),
            "date": self.date,
            "backend": self.backend,
            "evidence": self.evidence,
            "stand_in": self.stand_in,
            "ok": self.ok,
            "counts": self.counts(),
            "seconds": self.seconds,
            "facts": self.facts,
            "environment": self.environment,
            "rows": [row.flat() for row in self.rows],
        }


def _backend(name: str | None) -> Backend:
    """The one asked for, if it works here."""
    if name is None:
        return current_backend()
    backend = get_backend(name)
    probe = backend.probe()
    if probe.state is not ProbeState.AVAILABLE:
        raise envs.MachineError(f"check: --device {name} must work here, got: {probe.detail}")
    return backend


def _operator_rows(
    cases: Sequence[Case], checker: OperatorCheck, *, quick: bool
) -> list[Callable[[], list[Row]]]:
    runs: list[Callable[[], list[Row]]] = []
    for case in cases:
        dtypes = case.dtypes
        if quick and case.values:
            chosen = (torch.float32, checker.backend.amp_dtype)
            dtypes = tuple(d for d in dtypes if d in chosen) or dtypes
        runs += [partial(checker.rows, case, dtype) for dtype in dtypes]
    return runs


def _sections(
    request: Request, backend: Backend, facts: dict[str, str]
) -> Iterator[tuple[str, list[Callable[[], list[Row]]]]]:
    """Title of each section and what it runs, cheapest first."""
    whole = not request.operators
    if whole:
        yield "versions", [lambda: environment_rows(backend, facts)]
        yield "memory", [lambda: memory_rows(backend)]
    cases = chosen_cases(request.operators)
    yield "operators", _operator_rows(cases, OperatorCheck(backend), quick=request.quick)
    if installed.rounds_float32(backend):
        checker = OperatorCheck(backend, as_set=True)
        products = [case for case in cases if case.products]
        yield "float32 as set", [partial(checker.rows, c, torch.float32) for c in products]
    if whole:
        steps = min(request.steps, _QUICK_STEPS) if request.quick else request.steps
        parts = [partial(step_rows, backend, name) for name in MODELS]
        yield "training step", [*parts, partial(mixed_precision_rows, backend)]
        yield "collectives", [lambda: collective_rows(backend, request.program)]
        yield "timing", [lambda: [timing_row(backend, steps)]]


def run(request: Request, progress_bar: ProgressBar) -> Report:
    """Check this machine.

    Args:
        request: what is checked.
        progress_bar: shows a title and how much of it is done.

    Returns:
        The report; what a case raises is a failed row of it.

    Raises:
        ValueError: an unknown operator.
        MachineError: the device is not there.
    """
    backend = _backend(request.device)
    backend.prepare()  # as a training does, before the first tensor
    facts = installed.facts(backend)
    report = Report(
        backend=backend.name,
        facts=facts,
        environment=environment(),
        stand_in=installed.simulated(backend),
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    start = time.perf_counter()
    sections = list(_sections(request, backend, facts))
    for title, runs in sections:
        with progress_bar(title) as update:
            for done, task in enumerate(runs):
                update(done, len(runs))
                report.rows.extend(task())
            update(len(runs), len(runs))
    return Report(**(vars(report) | {"seconds": time.perf_counter() - start}))
