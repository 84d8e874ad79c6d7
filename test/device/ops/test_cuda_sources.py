"""What is declared for CUDA is there: in the library, and in the sources it is built from."""

import re
from pathlib import Path

import pytest
import torch

from anybev import envs
from anybev.device.ops import _native
from anybev.device.ops._contract import CONTRACTS
from anybev.engine.check.operators import all_cases

CSRC = Path(__file__).parents[3] / "csrc"
# The NPU's: both gradients in one kernel, and what that kernel wants to know of a plan.
ELSEWHERE = {"sparse_conv_backward", "sparse_conv_payload"}
DECLARED = sorted(
    name
    for name, contract in CONTRACTS.items()
    if contract.public in _native.DECLARED["cuda"] and name not in ELSEWHERE
)


def registered() -> list[str]:
    """Names that the bindings register, as their sources say."""
    names = []
    for source in sorted((CSRC / "ops" / "cuda").glob("*.cpp")):
        text = source.read_text()
        for block in re.findall(
            r"TORCH_LIBRARY_IMPL\(anybev, ANYBEV_CUDA_KEY, m\) \{(.*?)\n\}", text, re.S
        ):
            names += re.findall(r'm\.impl\("(\w+)"', block)
    return names


def included(source: Path) -> set[Path]:
    """The file and everything of csrc that it includes."""
    found, wanted = set(), [source]
    while wanted:
        file = wanted.pop()
        found.add(file)
        for name in re.findall(r'#include "(.+?)"', file.read_text()):
            path = next((p for p in (CSRC / name, CSRC / "emulation" / name) if p.is_file()), None)
            assert path, f"{file} includes {name}"
            wanted += [path] if path not in found else []
    return found


def test_every_operator_is_declared() -> None:
    assert {case.operator for case in all_cases()} == set(_native.DECLARED["cuda"])


def test_sources_register_what_is_declared_and_no_more() -> None:
    names = registered()
    assert sorted(names) == sorted(set(names))
    assert sorted(names) == DECLARED


def test_the_library_has_every_kernel() -> None:
    if envs.native_library() is not None or not _native._built("_C_cuda"):
        pytest.skip("no CUDA kernels in this installation")
    assert _native.load_cuda() is None
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    missing = [name for name in DECLARED if not has_kernel(f"anybev::{name}", "CUDA")]
    assert not missing, f"run install.sh --backend cuda again: no kernel of {', '.join(missing)}"


@pytest.mark.parametrize(
    "source", sorted((CSRC / "ops" / "cuda").glob("*.cu")), ids=lambda p: p.name
)
def test_kernels_include_no_header_of_torch(source: Path) -> None:
    for file in included(source):
        found = re.findall(r"#include <(?:ATen|c10|torch|caffe2)/.*>", file.read_text())
        assert not found, f"{file.name}: {found[0]}"
