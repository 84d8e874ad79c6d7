"""Every operator on the simulated npu keeps its schema and its promise of shapes and dtypes."""

from typing import Any

import pytest
import torch

from anybev.device.ops._contract import CONTRACTS, Contract
from anybev.engine.check.operators import all_cases

# opcheck's own test of autograd knows no device but CPU, CUDA and XPU.
CHECKS = ("test_schema", "test_faketensor")
Call = tuple[Any, ...]


def moved(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to("npu")
    return [moved(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def calls() -> dict[str, Call]:
    """Arguments with which each contract is called, the smallest of the check's cases."""
    found: dict[str, tuple[int, Call]] = {}
    run = Contract.__call__

    def record(self: Contract, *args: Any) -> Any:
        size = sum(a.numel() for a in args if isinstance(a, torch.Tensor))
        if size and size < found.get(self.name, (float("inf"), ()))[0]:
            found[self.name] = (size, args)
        return run(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contract, "__call__", record)
        for case in all_cases():
            inputs = case.inputs(case.dtypes[-1])
            inputs |= {name: inputs[name].requires_grad_() for name in case.gradients}
            results = case.run(**inputs)
            if case.gradients:
                outputs = [r for r in torch.utils._pytree.tree_leaves(results) if r.requires_grad]
                torch.stack([out.float().sum() for out in outputs]).sum().backward()
    return {name: args for name, (_, args) in found.items()}


def test_every_contract_is_called(calls: dict[str, Call]) -> None:
    assert calls.keys() == CONTRACTS.keys()


@pytest.mark.parametrize("suffix", ["", "_reference"])
@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_opcheck(name: str, suffix: str, calls: dict[str, Call]) -> None:
    operator = getattr(torch.ops.anybev, name + suffix).default
    torch.library.opcheck(operator, tuple(map(moved, calls[name])), test_utils=CHECKS)
