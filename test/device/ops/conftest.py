"""Fixtures of the operator tests: which implementation answers, and on how many threads."""

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch

from anybev import envs
from anybev.device.ops import _native
from anybev.device.ops._contract import CONTRACTS

if envs.native_library() is not None and _native.load() is not None:
    pytest.exit(f"ANYBEV_NATIVE_LIBRARY: {_native.load()}", returncode=1)


@pytest.fixture(params=["native", "reference"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each implementation on the CPU of the operator that the test module is named after."""
    name = request.module.__name__.rpartition("test_")[2].removesuffix("_contract")
    if request.param == "reference":
        if envs.native_library() is not None:
            pytest.skip("references are tested without ANYBEV_NATIVE_LIBRARY")
        monkeypatch.setenv("ANYBEV_OPS", f"{name}=reference")
    elif CONTRACTS[name].implementation("cpu") != "native":
        pytest.skip(f"no compiled {name} in this installation")
    return request.param


@pytest.fixture
def emulated() -> bool:
    """Whether the native kernels of this run are the CUDA ones, emulated on the processor."""
    return envs.native_library() is not None


@pytest.fixture
def device_waits(emulated: bool) -> Callable[[], int]:
    """Number of times that the host has waited for the emulated device."""
    if not emulated:
        pytest.skip("waits are counted where CUDA kernels are emulated")
    count = ctypes.CDLL(str(envs.native_library())).anybev_emulation_waits
    count.restype = ctypes.c_int64
    return lambda: int(count())


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's thread count; the count before the test comes back after it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
