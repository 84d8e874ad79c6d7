"""The operator benchmark harness: clock, rows, file, choice of modules, synthetic input."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anybev.benchmark.ops import harness, run
from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row
from anybev.benchmark.ops.scene import ENCODER, Scene
from anybev.device.backend import Probe, ProbeState
from anybev.envs import MachineError


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def takes(self, *seconds: float) -> harness.Side:
        """A side whose runs take these times, the last one for ever after."""
        left = list(seconds)

        def run() -> None:
            self.now_s += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(harness, "time", clock)
    return clock


def rows_of(ctx: Context) -> Iterator[Row]:
    sides = {OURS: lambda: None, "peer 1.0": lambda: None}
    yield from ctx.compare(
        "sparse_conv", "S1 L1", sides, shape={"sites": 7}, gflop=0.5, ceiling_gflops=1000.0
    )


def test_ratio_is_the_time_of_the_other_side_over_ours(clock: Clock) -> None:
    # The first run warms up, the median of the others counts.
    sides = {OURS: clock.takes(9, 1, 2, 3), "peer 1.0": clock.takes(9, 8)}
    ctx = Context(runs=3, seconds=100)
    ours, peer = ctx.compare("x", "case", sides, shape={}, gflop=0.5, ceiling_gflops=1.0)
    assert (ours.side, peer.side) == (OURS, "peer 1.0")
    assert (ours.timing.median_ms, peer.timing.median_ms) == pytest.approx((2000, 8000))
    assert ours.timing.iqr_ms == pytest.approx(1000)
    assert ours.ratios == {"peer 1.0": pytest.approx(4)}
    assert peer.ratios == {}
    assert ours.flat()["of_ceiling"] == pytest.approx(0.5 / 2)


def test_a_slow_side_is_measured_once_and_a_quick_one_as_wanted(clock: Clock) -> None:
    sides = {"slow": clock.takes(3.5), "half": clock.takes(1), "quick": clock.takes(0.25)}
    timings = harness.measure(sides, runs=9, seconds=3)
    assert timings["slow"].iqr_ms == 0
    # At least five of those that take less than the budget, then until it is spent.
    assert {name: timing.runs for name, timing in timings.items()} == {
        "slow": 1,
        "half": 5,
        "quick": 9,
    }


def test_a_run_waits_for_the_device_before_and_after(clock: Clock) -> None:
    """A device goes on for 2 s after a call that took 1 s; neither side pays for the other."""
    queued_s = 0.0

    def launch() -> None:
        nonlocal queued_s
        clock.now_s, queued_s = clock.now_s + 1, queued_s + 2

    def synchronize() -> None:
        nonlocal queued_s
        clock.now_s, queued_s = clock.now_s + queued_s, 0.0

    queued_s = 50.0
    sides = {"launches": launch, "waits": clock.takes(0.5)}
    timings = harness.measure(sides, runs=2, seconds=100, synchronize=synchronize)
    assert timings["launches"].median_ms == 3000
    assert timings["waits"].median_ms == 500


def test_an_absent_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Probe(ProbeState.ABSENT, "no driver")
    monkeypatch.setattr("anybev.device.cuda.probe", lambda: absent)
    with pytest.raises(MachineError, match="--device cuda must be there, got no driver"):
        run.run(tmp_path / "rows.jsonl", device="cuda")


def test_threads_and_forced_reference_hold_inside_the_run_only() -> None:
    before, seen = torch.get_num_threads(), []

    def look() -> None:
        seen.append((torch.get_num_threads(), os.environ.get("ANYBEV_OPS")))

    sides = {OURS: look, REFERENCE: harness.on_reference("sparse_conv", look)}
    list(Context(runs=1).compare("sparse_conv", "x", sides, shape={}, threads=1))
    assert set(seen) == {(1, os.environ.get("ANYBEV_OPS")), (1, "sparse_conv=reference")}
    assert torch.get_num_threads() == before


def test_ceiling_is_positive_and_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, calls = Context(), []
    monkeypatch.setattr(harness, "_matmul_gflops", lambda *a: calls.append(a) or len(calls))
    monkeypatch.setattr(harness, "_square_gflops", lambda *a: 0.5)
    for _ in range(2):
        assert ctx.ceiling_gflops(16, 32, torch.float32, 1) == 1
    assert len(calls) == 1


def test_run_writes_one_json_line_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "discover", lambda only: {"demo": SimpleNamespace(rows=rows_of)})
    monkeypatch.setattr(run, "Context", lambda **_: Context(runs=2, seconds=0.1))
    out = tmp_path / "deep" / "rows.jsonl"
    run.run(out, only=("demo",))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["side"] for line in lines] == [OURS, "peer 1.0"]
    for name in ("commit", "device", "torch", "threads", "dtype", "shape", "input", "median_ms"):
        assert name in lines[0]


def test_every_operator_with_a_benchmark_can_be_chosen() -> None:
    assert list(run.discover(("sparse_neighbors",))) == ["sparse_neighbors"]
    assert {"sparse_conv", "sparse_neighbors", "voxelize_hard"} <= set(run.discover())


def test_unknown_operator() -> None:
    with pytest.raises(ValueError, match=r"--only must be one of .*sparse_conv.*, got warp"):
        run.discover(("warp",))


def test_synthetic_sweep_stands_in_where_there_is_no_sample_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYBEV_TEST_DATA", str(tmp_path))
    scene = Scene.load(1)
    assert scene.origin.startswith("synthetic")
    assert len(scene.points_lidar_m) == 34688
    assert 10_000 < len(scene.coords) < 40_000
    assert list(scene.plans) == list(ENCODER)
    assert scene.plans["out strided"].out_shape == (180, 180, 2)
