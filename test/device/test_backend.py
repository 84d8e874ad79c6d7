import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from anybev.cli import main
from anybev.device import Capability, current_backend, get_backend
from anybev.device import backend as backends
from anybev.device.backend import Probe, ProbeState

NAMES = ("cpu", "cuda", "npu")


@pytest.fixture(autouse=True)
def _fresh_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYBEV_BACKEND", raising=False)
    backends._select.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_backend_facts_are_there_without_the_device(name: str) -> None:
    backend = get_backend(name)
    assert backend.name == backend.device_type == name
    assert backend.collective in ("gloo", "nccl", "cpu:gloo,npu:hccl")
    assert backend.probe().detail


def test_cpu_backend_works() -> None:
    cpu = get_backend("cpu")
    cpu.synchronize()
    cpu.reset_peak_memory()
    assert cpu.peak_memory_mib() > 10
    assert cpu.device(3) == torch.device("cpu")
    assert cpu.fast_amp() in (True, False)
    assert Capability.GRAD_SCALER not in cpu.capabilities


def test_seed_repeats_torch_numpy_and_python() -> None:
    import random

    import numpy as np

    def draw() -> tuple[float, float, float]:
        get_backend("cpu").seed(5)
        return float(torch.rand(())), float(np.random.rand()), random.random()

    assert draw() == draw()


def test_a_restored_generator_repeats_its_draws() -> None:
    cpu = get_backend("cpu")
    state = cpu.rng_state()
    first = torch.rand(3)
    cpu.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA device")
def test_a_restored_cuda_generator_repeats_its_draws() -> None:
    cuda = get_backend("cuda")
    state = cuda.rng_state()
    first = torch.rand(3, device="cuda")
    cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), first)


def test_autocast_uses_the_backends_dtype() -> None:
    with get_backend("cpu").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    with get_backend("cpu").autocast(enabled=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_environment_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_BACKEND", "cpu")
    assert current_backend().name == "cpu"


def test_unknown_backend_raises() -> None:
    with pytest.raises(ValueError, match="name must be one of cpu, cuda, npu, got 'tpu'"):
        get_backend("tpu")


def test_forced_absent_backend_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_BACKEND", "npu")
    monkeypatch.setattr(
        "anybev.device.npu.probe", lambda: Probe(ProbeState.ABSENT, "torch_npu is not installed")
    )
    with pytest.raises(RuntimeError, match="ANYBEV_BACKEND=npu must be present"):
        current_backend()


def test_broken_driver_raises_instead_of_falling_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "anybev.device.npu.probe", lambda: Probe(ProbeState.BROKEN, "libascendcl.so: not found")
    )
    with pytest.raises(RuntimeError, match="backend npu: driver must work, got: libascendcl"):
        current_backend()


def test_env_prints_json() -> None:
    import json

    result = CliRunner().invoke(main, ["env", "--json"])
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["backends"]["cpu"]["state"] == "available"
    assert set(facts["ops"]["sparse_conv"]) == set(NAMES)
    assert facts["ops"]["sparse_conv"]["cpu"] in ("native", "reference")


def test_forced_reference_shows_in_env() -> None:
    code = (
        "from anybev.device.report import environment; print(environment()['ops']['sparse_conv'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"ANYBEV_OPS": "sparse_conv=reference", "PATH": "/usr/bin:/bin"},
        timeout=300,
    )
    assert "'cpu': 'reference'" in result.stdout, result.stderr
