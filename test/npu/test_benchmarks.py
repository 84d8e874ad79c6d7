"""Operator benchmarks on a device: every tensor is put there, peers of the CPU stay away."""

import pytest

from anybev.benchmark.ops import run
from anybev.benchmark.ops.harness import OURS, REFERENCE, Context
from anybev.device import get_backend


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(run.discover()))
def test_first_rows_on_a_device(operator: str) -> None:
    context = Context(runs=1, seconds=0.001, backend=get_backend("npu"))
    rows = run.discover((operator,))[operator].rows(context)
    first = next(rows, None)
    if operator == "image_path":
        assert first is None
        return
    assert first is not None
    assert (first.side, first.threads) == (OURS, 1)
    assert REFERENCE in first.ratios
    assert not any(name.startswith(("spconv", "shapely", "unordered")) for name in first.ratios)
