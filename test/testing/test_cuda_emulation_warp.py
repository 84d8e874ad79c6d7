"""Emulated tensor-core instructions: fragments as the PTX ISA lays them out, against a product."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anybev.testing import cuda_emulation

ROOT = Path(cuda_emulation.__file__).resolve().parents[3]
Run = Callable[[str, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("warp") / "warp"
    sources = [Path(__file__).parent / "cuda_emulation_warp.cu"]
    sources.append(ROOT / "csrc/emulation/scheduler.cpp")
    folders = [f"-I{ROOT / 'csrc/emulation'}", f"-I{ROOT / 'csrc'}"]
    folders.append(f"-isystem{Path(torch.__file__).parent / 'include'}")
    flags = ["-std=c++20", "-O0", "-U_FORTIFY_SOURCE", "-x", "c++"]
    subprocess.run([compiler, *flags, *folders, *map(str, sources), "-o", program], check=True)

    def call(name: str, words: np.ndarray) -> np.ndarray:
        text = " ".join(str(word) for word in words.ravel())
        found = subprocess.run([program, name], input=text, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return np.array(found.stdout.split(), np.uint32)

    return call


def left_16bit(lane: int, i: int) -> tuple[int, int]:
    """PTX ISA, fragments of mma.m16n8k16: (row, column) of element a_i of 0 to 7."""
    group, thread = lane >> 2, lane % 4
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)


def right_16bit(lane: int, i: int) -> tuple[int, int]:
    """Element b_i of 0 to 3."""
    return (lane % 4) * 2 + (i & 1) + (8 if i >= 2 else 0), lane >> 2


def left_tf32(lane: int, i: int) -> tuple[int, int]:
    """PTX ISA, fragments of mma.m16n8k8 for .tf32: element a_i of 0 to 3."""
    group, thread = lane >> 2, lane % 4
    return (group if i in (0, 2) else group + 8), (thread if i in (0, 1) else thread + 4)


def right_tf32(lane: int, i: int) -> tuple[int, int]:
    """Element b_i of 0 and 1."""
    return (lane % 4 if i == 0 else lane % 4 + 4), lane >> 2


def sums_of(lane: int, i: int) -> tuple[int, int]:
    """Element c_i of 0 to 3, the same for both shapes."""
    return (lane >> 2 if i < 2 else (lane >> 2) + 8), (lane % 4) * 2 + (i & 1)


def bits_of(values: torch.Tensor) -> np.ndarray:
    whole = torch.int16 if values.element_size() == 2 else torch.int32
    unsigned = np.uint16 if values.element_size() == 2 else np.uint32
    return values.contiguous().view(whole).numpy().view(unsigned)


@pytest.mark.parametrize("name", ["half", "bfloat16", "tf32"])
def test_products(run: Run, name: str) -> None:
    dtype = {"half": torch.float16, "bfloat16": torch.bfloat16, "tf32": torch.float32}[name]
    inner = 8 if name == "tf32" else 16
    generator = torch.Generator().manual_seed(0)
    # Integers: exact in every type and in any order of summation.
    left = torch.randint(-30, 30, (16, inner), generator=generator).to(dtype)
    right = torch.randint(-30, 30, (inner, 8), generator=generator).to(dtype)
    start = torch.randint(-30, 30, (16, 8), generator=generator).float()
    a, b = bits_of(left), bits_of(right)
    lanes = []
    for lane in range(32):
        if name == "tf32":
            held = [a[left_tf32(lane, i)] for i in range(4)]
            held += [b[right_tf32(lane, i)] for i in range(2)]
        else:
            numbers = [a[left_16bit(lane, i)] for i in range(8)]
            numbers += [b[right_16bit(lane, i)] for i in range(4)]
            held = [int(x) | int(y) << 16 for x, y in zip(*[iter(numbers)] * 2, strict=True)]
        held += [bits_of(start)[sums_of(lane, i)] for i in range(4)]
        lanes.append(held)
    found = run(name, np.array(lanes, np.uint32)).view(np.float32).reshape(32, 4)
    product = np.full((16, 8), np.nan, np.float32)
    for lane in range(32):
        for i in range(4):
            product[sums_of(lane, i)] = found[lane, i]
    assert np.array_equal(product, (start + left.float() @ right.float()).numpy())


def test_tf32_ignores_the_bits_it_lacks(run: Run) -> None:
    ones = np.full((32, 10), np.float32(1).view(np.uint32))
    ones[:, :6] |= 0x1FFF
    ones[:, 6:] = 0
    assert set(run("tf32", ones).view(np.float32)) == {8.0}


def test_rounding_to_tf32(run: Run) -> None:
    """The nearest with 10 bits of mantissa; of two, the one farther from zero."""
    step = 2.0**-10
    given = [1 + step / 2, -1 - step / 2, 1 + 0.49 * step, 1 + 1.5 * step, np.inf, -np.inf, 0, -0.0]
    wanted = [1 + step, -1 - step, 1, 1 + 2 * step, np.inf, -np.inf, 0, -0.0]
    found = run("round", np.array(given, np.float32).view(np.uint32))
    assert np.array_equal(found, np.array(wanted, np.float32).view(np.uint32))
    assert np.isnan(run("round", np.array([np.nan], np.float32).view(np.uint32)).view(np.float32))


@pytest.mark.parametrize("name", ["matrices", "transposed"])
def test_loads_of_four_matrices(run: Run, name: str) -> None:
    """PTX ISA, ldmatrix: thread T gets elements 2 (T % 4), + 1 of row T / 4 of each matrix."""
    numbers = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    found = run(name, numbers.view(np.uint32)).reshape(32, 4)
    read = numbers.transpose(0, 2, 1) if name == "transposed" else numbers
    for lane in range(32):
        for m in range(4):
            pair = read[m, lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2]
            assert found[lane, m] == int(pair[0]) | int(pair[1]) << 16


def test_copies_arrive_when_they_are_waited_for(run: Run) -> None:
    found = run("copies", np.array([7] * 4 + [8] * 4 + [9] * 4, np.uint32))
    nothing = 0xCBCBCBCB
    assert found.tolist() == [nothing] * 3 + [7, 0, nothing] + [7, 0, 9]
