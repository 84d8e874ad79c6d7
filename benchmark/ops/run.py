"""Run operator benchmarks, write their rows, print them as a table."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from anybev import envs
from anybev.benchmark import ops
from anybev.benchmark.ops.harness import Context, Row, environment, machine, write_line
from anybev.device import get_backend
from anybev.device.backend import ProbeState

_PREFIX = "bench_"
_TABLE_WIDTH = 132


def discover(only: tuple[str, ...] = ()) -> dict[str, ModuleType]:
    """Benchmark modules by operator name.

    Raises:
        ValueError: ``only`` names an operator without a benchmark.
    """
    names = sorted(
        m.name.removeprefix(_PREFIX)
        for m in pkgutil.iter_modules(ops.__path__)
        if m.name.startswith(_PREFIX)
    )
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise ValueError(f"bench ops: --only must be one of {', '.join(names)}, got {unknown[0]}")
    wanted = [name for name in names if not only or name in only]
    return {
        name: importlib.import_module(f"anybev.benchmark.ops.{_PREFIX}{name}") for name in wanted
    }


def run(out: Path, only: tuple[str, ...] = (), device: str = "cpu") -> None:
    """Measure operators and write one JSON line a row.

    Args:
        out: file to write; replaced.
        only: operator names; empty for all.
        device: whose kernels are measured: ``cpu``, ``cuda`` or ``npu``.

    Raises:
        ValueError: ``only`` names an operator without a benchmark.
        MachineError: the device is not there, or an operator has no kernel for it.
    """
    modules, backend = discover(only), get_backend(device)
    found = backend.probe()
    if found.state is not ProbeState.AVAILABLE:
        raise envs.MachineError(f"bench ops: --device {device} must be there, got {found.detail}")
    context, facts = Context(backend=backend), machine(backend)
    # A table squeezed into 80 columns cannot be read; a log file has no width.
    console = Console(width=max(_TABLE_WIDTH, Console().width), highlight=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    measured: list[Row] = []
    # A reference timed under our name would be a wrong row.
    with out.open("w") as file, environment({"ANYBEV_REQUIRE_NATIVE": "1"}):
        for name, module in modules.items():
            for row in module.rows(context):
                write_line(file, row, facts, context.scenes["S1"].origin)
                measured.append(row)
                console.print(f"{name}: {_summary(row)}")
    console.print(table(measured))
    for note in dict.fromkeys(f"{row.side}: {row.note}" for row in measured if row.note):
        console.print(note)
    console.print(f"{facts['device']} · torch {facts['torch']} · commit {facts['commit']}")
    console.print(f"input: {context.scenes['S1'].origin}; rows in {out}")


def _summary(row: Row) -> str:
    return f"{row.case} {row.direction} {row.side} {row.threads}t {row.timing.median_ms:.2f} ms"


def table(rows: list[Row]) -> Table:
    """Rows as people read them."""
    result = Table(title="operators: median of repeated runs")
    for column in ("operator", "case", "direction", "dtype", "side"):
        result.add_column(column, no_wrap=column == "side")
    for column in ("threads", "ms", "IQR", "GFLOP/s", "of ceiling"):
        result.add_column(column, justify="right", no_wrap=column == "ms")
    result.add_column("faster than")
    for row in rows:
        share = row.gflops and row.ceiling_gflops and row.gflops / row.ceiling_gflops
        result.add_row(
            row.operator,
            row.case,
            row.direction,
            row.dtype,
            row.side,
            str(row.threads),
            f"{row.timing.median_ms:.2f}",
            f"{row.timing.iqr_ms:.2f}",
            f"{row.gflops:.0f}" if row.gflops else "",
            f"{share:.0%}" if share else "",
            ", ".join(f"{side} {ratio:.1f}x" for side, ratio in row.ratios.items()),
        )
    return result
