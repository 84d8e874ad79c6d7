"""How operators are timed: same process, sides taken in turn, medians, one JSON row a side.

A ``bench_<operator>.py`` module exposes ``rows(ctx: Context) -> Iterator[Row]`` and mostly yields
from :meth:`Context.compare`.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

import anybev
from anybev.benchmark.ops.scene import Scene
from anybev.device import Backend, get_backend
from anybev.device.report import commit, processor

OURS = "anybev"
REFERENCE = "reference"

Side = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of repeated runs of one side."""

    median_ms: float
    iqr_ms: float
    runs: int


@dataclass(frozen=True)
class Row:
    """One measurement: who did what, how fast.

    Attributes:
        operator, case, direction: what was measured, ``sparse_conv``, ``S10 L2``, ``forward``.
        side: ``anybev``, ``reference`` or a peer's name with its version.
        threads: threads that torch (and the peer) may use on the CPU.
        dtype: of the features, ``float32``; ``int32`` where there are none.
        shape: sizes that say what the case is, ``{"sites": 17509, "pairs": 56000}``.
        timing: how long.
        gflops: useful floating-point operations a nanosecond; None where none are counted.
        ceiling_gflops: what a dense matrix product reaches in this process, same threads.
        ratios: on the ``anybev`` side: time of each other side over ours.
        note: what a reader must know to judge the row.
    """

    operator: str
    case: str
    direction: str
    side: str
    threads: int
    dtype: str
    shape: Mapping[str, int | list[int]]
    timing: Timing
    gflops: float | None = None
    ceiling_gflops: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def flat(self) -> dict[str, Any]:
        """The row as one flat JSON object."""
        values = asdict(self)
        values.update(values.pop("timing"))
        share = self.gflops and self.ceiling_gflops and self.gflops / self.ceiling_gflops
        return {k: v for k, v in values.items() if v is not None} | (
            {"of_ceiling": share} if share else {}
        )


def _nothing_queued() -> None:
    """The CPU has done what it was told when a call returns."""


def _timed(run: Side, synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return (time.perf_counter() - start) * 1e3


def measure(
    sides: Mapping[str, Side],
    *,
    runs: int = 30,
    seconds: float = 3.0,
    synchronize: Callable[[], None] = _nothing_queued,
) -> dict[str, Timing]:
    """Time every side, one run of each in turn, so that a disturbance hits all of them.

    Args:
        sides: what to run.
        runs: wanted runs a side, after one warm-up.
        seconds: a side stops once its runs together took this long, but not before 5 of them; a
            side of which one run takes longer is measured once.
        synchronize: waits for the device, before and after each run.

    Returns:
        Median and interquartile range of each side.
    """
    fewest = {
        name: 5 if _timed(run, synchronize) < seconds * 1e3 else 1 for name, run in sides.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, run in sides.items():
            taken = samples[name]
            if len(taken) < fewest[name] or sum(taken) < seconds * 1e3:
                taken.append(_timed(run, synchronize))
    return {name: _summary(times) for name, times in samples.items()}


def _summary(times: list[float]) -> Timing:
    if len(times) < 2:
        return Timing(times[0], 0.0, 1)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, high - low, len(times))


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Let torch's pool use ``threads`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables set (or unset, for None) inside the block."""
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def on_reference(operator: str, run: Side) -> Side:
    """``run`` with ``operator`` forced to its plain-PyTorch reference."""
    changes = {"ANYBEV_OPS": f"{operator}=reference", "ANYBEV_REQUIRE_NATIVE": None}

    def forced() -> object:
        with environment(changes):
            return run()

    return forced


class Context:
    """What benchmark modules share: the device, the scenes, the clock, the machine's ceiling.

    Args:
        runs: wanted runs a side.
        seconds: see :func:`measure`.
        backend: whose kernels are timed; the CPU's by default.
    """

    def __init__(
        self, *, runs: int = 30, seconds: float = 3.0, backend: Backend | None = None
    ) -> None:
        self.runs, self.seconds = runs, seconds
        self.backend = backend or get_backend("cpu")
        self.device = self.backend.device()
        self.on_cpu = self.device.type == "cpu"
        cores = os.cpu_count() or 1
        # Threads of the host say nothing about a device's kernels.
        self.threads = tuple(sorted({1, min(2, cores)})) if self.on_cpu else (1,)
        self._ceilings: dict[tuple[int, int, torch.dtype, int], float] = {}

    def put(self, value: Tensor) -> Tensor:
        """``value`` on the device that is measured."""
        return value.to(self.device)

    @cached_property
    def scenes(self) -> dict[str, Scene]:
        """``S1``: one sweep; ``S10``: ten shifted and turned copies of it."""
        return {f"S{copies}": Scene.load(copies).to(self.device) for copies in (1, 10)}

    def ceiling_gflops(self, cin: int, cout: int, dtype: torch.dtype, threads: int) -> float:
        """GFLOP/s of ``torch.mm``: the faster of 20,000 x cin x cout and 4096 x 512 x 512."""
        key = (cin, cout, dtype, threads)
        if key not in self._ceilings:
            with thread_count(threads):
                self._ceilings[key] = max(
                    _matmul_gflops(20_000, cin, cout, dtype, self.backend),
                    _square_gflops(dtype, threads, self.backend),
                )
        return self._ceilings[key]

    def compare(
        self,
        operator: str,
        case: str,
        sides: Mapping[str, Side],
        *,
        shape: Mapping[str, int | list[int]],
        direction: str = "forward",
        threads: int = 1,
        dtype: str = "float32",
        gflop: float | None = None,
        ceiling_gflops: float | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Iterator[Row]:
        """Time all sides in turn and yield one row a side; the one named ``anybev`` gets ratios.

        Args:
            operator: see :class:`Row`, as for the next five.
            case: name of the input or layer.
            sides: what to run, by name: ``OURS``, ``REFERENCE``, a peer's name with version.
            shape: sizes of the case.
            direction: ``forward``, ``backward``, ``plan``.
            threads: threads during the measurement.
            dtype: of the features.
            gflop: useful work of one run, in 1e9 operations.
            ceiling_gflops: from :meth:`ceiling_gflops`.
            notes: by side.
        """
        with thread_count(threads):
            timings = measure(
                sides,
                runs=self.runs,
                seconds=self.seconds,
                synchronize=self.backend.synchronize,
            )
        for name, timing in timings.items():
            others = {k: t.median_ms / timing.median_ms for k, t in timings.items() if k != name}
            yield Row(
                operator=operator,
                case=case,
                direction=direction,
                side=name,
                threads=threads,
                dtype=dtype,
                shape=shape,
                timing=timing,
                gflops=gflop and gflop / timing.median_ms * 1e3,
                ceiling_gflops=ceiling_gflops,
                ratios=others if name == OURS else {},
                note=(notes or {}).get(name, ""),
            )


def _matmul_gflops(rows: int, cin: int, cout: int, dtype: torch.dtype, backend: Backend) -> float:
    place: dict[str, Any] = {"dtype": dtype, "device": backend.device()}
    a, b = torch.randn(rows, cin, **place), torch.randn(cin, cout, **place)
    out = torch.empty(rows, cout, **place)
    timing = measure(
        {"mm": lambda: torch.mm(a, b, out=out)},
        runs=20,
        seconds=0.5,
        synchronize=backend.synchronize,
    )["mm"]
    return 2e-6 * rows * cin * cout / timing.median_ms


@cache
def _square_gflops(dtype: torch.dtype, threads: int, backend: Backend) -> float:
    with thread_count(threads):
        return _matmul_gflops(4096, 512, 512, dtype, backend)


def machine(backend: Backend | None = None) -> dict[str, str]:
    """What every row carries about where it was measured; the CPU unless a backend is named."""
    isa = torch.backends.cpu.get_cpu_capability()
    device = f"cpu: {processor()}, {os.cpu_count()} cores, {isa}"
    if backend is not None and backend.name != "cpu":
        device = f"{backend.name}: {backend.probe().detail}; {device}"
    return {
        "commit": commit(),
        "anybev": anybev.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write_line(file: Any, row: Row, facts: Mapping[str, str], data: str) -> None:
    """Append one row, the origin of its input and the machine's facts as one JSON line."""
    file.write(json.dumps(row.flat() | {"input": data} | dict(facts)) + "\n")
    file.flush()
