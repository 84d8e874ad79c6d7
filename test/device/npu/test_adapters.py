"""When an adapter answers for an Ascend device, without one: the choice and its warnings."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from anybev.device.npu import adapters, limits
from anybev.device.ops._contract import CONTRACTS
from anybev.device.report import operator_table

ROOT = Path(__file__).parents[3]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An adapter's module whose bev_pool refuses odd numbers and nothing at all."""
    module = ModuleType("anybev.device.npu.ops.bev_pool")

    def bev_pool(number: int) -> str:
        limits.require_work(number)
        limits.require(number % 2 == 0, "number must be even", number)
        return "vendor"

    module.__dict__["bev_pool"] = bev_pool
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(adapters, "installed", lambda: True)
    adapters.tell_again()
    yield module
    adapters.tell_again()


def reference(number: int) -> str:
    return "reference"


def test_one_warning_for_each_operator_and_limit(answers: ModuleType) -> None:
    run = adapters.kernel("bev_pool", "bev_pool", reference)
    other = adapters.kernel("bev_pool", "lift_splat", reference)
    assert run(2) == "vendor"
    message = "bev_pool: mx_driving's kernel is left for the reference: number must be even, got 3"
    with pytest.warns(limits.KernelFallbackWarning, match=f"^{message}$"):
        assert run(3) == "reference"
    assert run(5) == "reference"  # a warning would be an error here
    with pytest.warns(limits.KernelFallbackWarning, match="^lift_splat: "):
        assert other(5) == "reference"


def test_an_empty_call_says_nothing(answers: ModuleType) -> None:
    assert adapters.kernel("bev_pool", "bev_pool", reference)(0) == "reference"


def test_without_mx_driving_the_reference_answers(
    answers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "installed", lambda: False)
    assert adapters.kernel("bev_pool", "bev_pool", reference)(2) == "reference"


def test_an_error_of_the_kernel_is_not_hidden(answers: ModuleType) -> None:
    def broken(number: int) -> str:
        raise RuntimeError("EZ9999: inner error")

    answers.__dict__["bev_pool"] = broken
    with pytest.raises(RuntimeError, match="EZ9999"):
        adapters.kernel("bev_pool", "bev_pool", reference)(2)


def test_a_reference_that_is_forced_is_not_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    operator_table()  # declares every operator
    monkeypatch.setattr(adapters, "installed", lambda: True)
    assert CONTRACTS["bev_pool"].implementation("npu") == "vendor"
    monkeypatch.setenv("ANYBEV_OPS", "bev_pool=reference")
    assert CONTRACTS["bev_pool"].implementation("npu") == "reference"


def test_every_adapter_is_a_contract_with_a_module() -> None:
    operator_table()
    assert set(adapters.ADAPTERS) <= set(CONTRACTS)
    folder = ROOT / "device/npu/ops"
    stems = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert stems == set(adapters.ADAPTERS.values())
    for name, stem in adapters.ADAPTERS.items():
        assert f"\ndef {name}(" in (folder / f"{stem}.py").read_text()


def test_operators_are_declared_without_mx_driving() -> None:
    operator_table()
    assert not {"mx_driving", "torch_npu"} & set(sys.modules)


def test_importing_mx_driving_leaves_logging_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mx_driving"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import logging\nlogging.root.addHandler(logging.StreamHandler())\n"
        "logging.root.setLevel(logging.INFO)\nmarker = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "mx_driving", ModuleType("mx_driving"))
    del sys.modules["mx_driving"]  # removed again when the test ends
    root = logging.getLogger()
    before = list(root.handlers), root.level
    assert adapters.vendor().marker == 1
    assert (list(root.handlers), root.level) == before


def test_limits() -> None:
    limits.require_pool(256, 8, (1024, 1024, 1))  # 2^31 values
    with pytest.raises(limits.LimitExceeded, match="at most 2147483648, got 2149580800") as caught:
        limits.require_pool(256, 8, (1024, 1025, 1))
    assert caught.value.reason.startswith("values of the map")
    limits.require_packed((2048, 2048, 256))
    with pytest.raises(limits.LimitExceeded, match=r"got \(2048, 2048, 257\)"):
        limits.require_packed((2048, 2048, 257))
    limits.require_single("x", torch.zeros(1, dtype=torch.float16), torch.zeros(1))
    with pytest.raises(limits.NotForKernel):
        limits.require_work(3, 0)
