"""The emulator of CUDA kernels: what it computes, and the mistakes that it shows."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from anybev.testing import cuda_emulation

ROOT = Path(cuda_emulation.__file__).resolve().parents[3]
LANES = range(64)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("emulation") / "probe"
    sources = [Path(__file__).parent / "cuda_emulation_probe.cu"]
    sources.append(ROOT / "csrc/emulation/scheduler.cpp")
    flags = ["-std=c++20", "-O1", "-U_FORTIFY_SOURCE", *cuda_emulation.CHECKS]
    flags.append(f"-I{ROOT / 'csrc/emulation'}")
    command = [compiler, *flags, f"-I{ROOT / 'csrc'}", "-x", "c++", *map(str, sources)]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


def run(probe: Path, name: str, seed: int | None = None) -> str:
    variables = {} if seed is None else {"ANYBEV_EMULATION_SEED": str(seed)}
    environment = {k: v for k, v in os.environ.items() if k != "ANYBEV_EMULATION_SEED"}
    result = subprocess.run(
        [probe, name], capture_output=True, text=True, env=environment | variables, timeout=60
    )
    return result.stdout.strip()


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_threads_of_a_block_meet_at_barriers(probe: Path, seed: int | None) -> None:
    assert run(probe, "barrier", seed) == "2016 2017 2018"


def test_a_missing_barrier_shows_in_another_order_of_threads(probe: Path) -> None:
    assert {run(probe, "missing barrier", seed) for seed in range(4)} != {"2016 2017 2018"}


@pytest.mark.parametrize("seed", [None, 1])
def test_warp_wide_calls(probe: Path, seed: int | None) -> None:
    found = [int(n) for n in run(probe, "warp", seed).split()]
    rows = [found[i : i + 64] for i in range(0, len(found), 64)]
    assert rows[0] == [sum(range(32))] * 64
    assert {n % 2**32 for n in rows[1]} == {0xAAAAAAAA}
    assert rows[2] == [max(lane % 32 - 1, 0) for lane in LANES]
    assert rows[3] == [lane % 32 // 8 * 8 + 3 for lane in LANES]
    assert rows[4] == [16 if lane % 32 < 16 else 0 for lane in LANES]
    assert [n % 2**32 for n in rows[5]] == [0xF << lane % 32 // 4 * 4 for lane in LANES]


def test_threads_that_have_ended_are_not_waited_for(probe: Path) -> None:
    assert run(probe, "exit") == str(40 * (20 * 10 + 1))


def test_a_barrier_that_some_never_reach_is_an_error(probe: Path) -> None:
    assert "every thread must reach the same barrier" in run(probe, "deadlock")


def test_shared_memory_starts_with_no_zeros(probe: Path) -> None:
    assert int(run(probe, "poison")) % 2**32 == 0xCBCBCBCB


def test_shared_memory_of_a_fixed_size_starts_so_in_every_block(probe: Path) -> None:
    found = run(probe, "fixed poison").split()
    assert [int(n) % 2**32 for n in found] == [0xCBCBCBCB] * 2


def test_threads_that_have_ended_have_no_vote(probe: Path) -> None:
    votes = {int(n) % 2**32 for n in run(probe, "ended lanes").split()}
    assert votes == {0xFFFFFF00 >> 1}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("absent lane", "a shuffle must read a lane that takes part"),
        ("wrong mask", "must name the lane that calls"),
        ("high grid", "below 2^31 x 2^16 x 2^16 blocks, of a depth up to 64, got 1 x 65536 x 1"),
    ],
)
def test_what_hardware_does_not_allow_is_an_error(probe: Path, mistake: str, message: str) -> None:
    assert message in run(probe, mistake)


@pytest.mark.parametrize(
    ("sound", "found", "mistake"),
    [("aligned load", "7", "misaligned load"), ("shift", "8", "wide shift")],
)
def test_what_the_processor_forgives_stops_the_program(
    probe: Path, sound: str, found: str, mistake: str
) -> None:
    assert run(probe, sound) == found
    assert subprocess.run([probe, mistake], capture_output=True, timeout=60).returncode < 0


def test_sorts_are_stable_and_scans_start_where_they_say(probe: Path) -> None:
    # Low two bits of 5, 1, 5, 4, 1: 1, 1, 1, 0, 1.
    assert run(probe, "algorithms") == "3 0 1 2 4 0 0 1 3 6 0 1 3 6 10"
