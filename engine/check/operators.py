"""Every operator, forward and backward, on the device against its reference on the CPU."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anybev import envs
from anybev.device import Backend, Capability, installed
from anybev.device.ops._contract import CONTRACTS
from anybev.engine.check import cases_boxes, cases_camera, cases_points, cases_sparse
from anybev.engine.check.case import Case
from anybev.engine.check.compare import (
    LIMITS,
    NARROW_SUM_LIMIT,
    REDUCED_FLOAT32_LIMIT,
    form,
    short,
    tensors,
    worst_error,
)
from anybev.engine.check.results import Row, Status, failed, judged, timed

SECTION = "operators"
_CPU = torch.device("cpu")
_NEEDS = {torch.float64: Capability.FLOAT64, torch.bfloat16: Capability.BFLOAT16}


def all_cases() -> list[Case]:
    """Cases of every operator, by operator."""
    families = (cases_points, cases_sparse, cases_camera, cases_boxes)
    return sorted(
        (case for family in families for case in family.CASES), key=lambda case: case.operator
    )


def chosen_cases(only: Sequence[str] = ()) -> list[Case]:
    """Cases of the named operators; all of them without a name.

    Raises:
        ValueError: a name that is no operator.
    """
    cases = all_cases()
    names = sorted({case.operator for case in cases})
    for name in only:
        if name not in names:
            raise ValueError(f"check: --ops must be of {', '.join(names)}, got {name!r}")
    return [case for case in cases if not only or case.operator in only]


@contextmanager
def operators_on(choices: Mapping[str, str]) -> Iterator[None]:
    """Choose implementations by operator inside the block, in place of the user's choice.

    A reference is then no error, whether or not the user requires native kernels.
    """
    before = {name: os.environ.get(name) for name in (envs.OPS, envs.REQUIRE_NATIVE)}
    os.environ[envs.OPS] = ",".join(f"{name}={choice}" for name, choice in choices.items())
    os.environ[envs.REQUIRE_NATIVE] = "0"
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def all_on_reference() -> dict[str, str]:
    """Choices that put every operator on its reference."""
    return {contract.public: "reference" for contract in CONTRACTS.values()}


def _alone(operator: str, user: str) -> dict[str, str]:
    """Choices under which only ``operator`` runs as the user has it.

    A plan is what a convolution runs over: a broken planner must not look like a broken
    convolution.
    """
    choices = all_on_reference()
    del choices[operator]
    entries = (entry.partition("=") for entry in user.replace(" ", "").split(",") if entry)
    return choices | {name: choice for name, _, choice in entries if name == operator}


def _moved(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def _forward(case: Case, inputs: Mapping[str, Any]) -> tuple[list[tuple[str, Tensor]], Any]:
    """Results, and the leaves that a gradient is asked of."""
    leaves = {name: inputs[name].detach().requires_grad_() for name in case.gradients}
    return list(tensors(case.run(**{**inputs, **leaves}))), leaves


def _backward(
    results: Sequence[tuple[str, Tensor]], leaves: Mapping[str, Tensor]
) -> list[tuple[str, Tensor]]:
    """Gradients of the leaves for one fixed gradient of every result."""
    outputs = [value for _, value in results if value.requires_grad]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(value.shape, generator=generator).to(value) for value in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), weights)
    return [(f"gradient of {name}", grad) for name, grad in zip(leaves, grads, strict=True)]


def _limit(case: Case, dtype: torch.dtype, reduced_float32: bool) -> float:
    if case.products and dtype is torch.float16:
        return NARROW_SUM_LIMIT
    if case.products and reduced_float32 and dtype is torch.float32:
        return REDUCED_FLOAT32_LIMIT
    return LIMITS[dtype]


def _judge(
    row: Row,
    actual: Sequence[tuple[str, Tensor]],
    expected: Sequence[tuple[str, Tensor]],
    like: Sequence[tuple[str, Tensor]],
    limit: float,
    device: torch.device,
) -> Row:
    """The row with the worst of its tensors; another device, dtype or shape fails at once."""
    if len(actual) != len(like):
        return failed(row, f"{len(like)} tensors expected, got {len(actual)}")
    errors = []
    for (name, got), (_, right), (_, pattern) in zip(actual, expected, like, strict=True):
        if got.device != device:
            return failed(row, f"{name} must be on {device}, got {got.device}")
        if form(got) != form(pattern):
            return failed(row, f"{name} must be {form(pattern)}, got {form(got)}")
        errors.append((worst_error(got.detach().cpu(), right.detach()), name))
    worst, where = max(errors, key=lambda error: error[0])
    return judged(row, worst, limit, where)


class OperatorCheck:
    """Runs cases on one backend.

    Args:
        backend: whose kernels are checked.
        as_set: leave torch's setting of TF32 or HF32 alone, which otherwise is off meanwhile.
    """

    def __init__(self, backend: Backend, *, as_set: bool = False) -> None:
        self.backend = backend
        self.device = backend.device()
        self.as_set = as_set
        self._setting = " as set" if as_set else ""
        self.user = os.environ.get(envs.OPS, "")

    def rows(self, case: Case, dtype: torch.dtype) -> list[Row]:
        """Forward and, where there is one, backward of a case; whatever is raised is its row's."""
        contract = CONTRACTS[case.operator]
        row = Row(
            section=SECTION,
            name=case.operator,
            case=f"forward{self._setting}: {case.name}",
            status=Status.PASS,
            dtype=short(dtype) if case.values else "",
            implementation=contract.implementation(self.backend.name),
            remedy="",
        )
        needed = _NEEDS.get(dtype)
        if case.values and needed and needed not in self.backend.capabilities:
            message = f"{self.backend.name} has no {short(dtype)}"
            return [replace(row, status=Status.SKIP, message=message)]
        if case.values and (message := installed.refusal(self.backend, row.implementation, dtype)):
            return [replace(row, status=Status.SKIP, message=message)]
        rows: list[Row] = []
        try:
            with nullcontext() if self.as_set else installed.full_float32(self.backend):
                self._run(case, dtype, row, rows)
        except Exception as error:  # a broken kernel raises what it likes: its row says so
            stage = "forward" if not rows else "backward"
            broken = replace(row, case=f"{stage}{self._setting}: {case.name}")
            rows.append(failed(broken, error))
        return [self._with_remedy(found) for found in rows]

    def _run(self, case: Case, dtype: torch.dtype, row: Row, rows: list[Row]) -> None:
        """Append the rows of one case, the forward one before backward is tried."""
        limit = _limit(case, dtype, self.as_set)
        with operators_on(all_on_reference()):
            inputs = case.inputs(dtype)
            exact = inputs | {name: inputs[name].double() for name in case.values}
            (like, like_leaves), (right, leaves) = _forward(case, inputs), _forward(case, exact)
            like_back, right_back = (
                _backward(*pair) if case.gradients else []
                for pair in ((like, like_leaves), (right, leaves))
            )
        with operators_on(_alone(case.operator, self.user)):
            moved = _moved(inputs, self.device)
            results, leaves = self._timed(row, rows, lambda: _forward(case, moved))
            rows[-1] = _judge(rows[-1], results, right, like, limit, self.device)
            if case.gradients:
                back = replace(row, case=f"backward{self._setting}: {case.name}")
                grads = self._timed(back, rows, lambda: _backward(results, leaves))
                rows[-1] = _judge(rows[-1], grads, right_back, like_back, limit, self.device)

    def _timed(self, row: Row, rows: list[Row], run: Callable[[], Any]) -> Any:
        with installed.told_fallbacks() as told, timed() as clock:
            result = run()
            self.backend.synchronize()
        if told:
            row = replace(row, implementation="reference", message="; ".join(told))
        rows.append(replace(row, seconds=clock.seconds))
        return result

    def _with_remedy(self, row: Row) -> Row:
        if row.status is not Status.FAIL or row.implementation == "reference":
            return row
        return replace(row, remedy=f'{envs.OPS}="{row.name}=reference"')


__all__ = ["OperatorCheck", "all_cases", "all_on_reference", "chosen_cases", "operators_on"]
