"""How far a result is from the expected one, and how far it may be."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

#: Largest error, relative to the largest expected value, of sums of some hundred terms that are
#: rounded to a dtype. The expected values are computed in float64.
LIMITS = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.5e-2,
}
#: Sums of float16 products that a device keeps in float16.
NARROW_SUM_LIMIT = 1e-2
#: float32 products whose factors a device rounds to 10 bits or so (TF32, HF32).
REDUCED_FLOAT32_LIMIT = 4e-3
#: A whole model in float32: losses, and what backward and batch statistics make of small
#: differences between two orders of summation. Relative to the largest value of a tensor.
MODEL_LIMIT = 2e-3
#: A whole model under autocast against float32: each loss, and all gradients as one vector (length
#: of the difference over length). bfloat16 on the CPU gives 3e-3 and 0.2; where a rounding lets the
#: head choose another proposal, its losses move by a few tenths.
AUTOCAST_LOSS_LIMIT = 2e-2
AUTOCAST_PROPOSAL_LIMIT = 0.5
AUTOCAST_GRADIENT_LIMIT = 0.5


def short(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def worst_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest finite expected magnitude (1 where all are 0).

    NaN and infinities must be where they are expected: otherwise the error is infinite.

    Args:
        actual: on the CPU, of any dtype.
        expected: of the same shape; integers and booleans must be equal (error 0, else infinite).
    """
    if not expected.dtype.is_floating_point:
        return 0.0 if torch.equal(actual, expected) else math.inf
    actual, expected = actual.double(), expected.double()
    finite = expected.isfinite()
    same = torch.equal(finite, actual.isfinite()) and torch.equal(
        torch.nan_to_num(actual[~finite], nan=0.5), torch.nan_to_num(expected[~finite], nan=0.5)
    )
    if not same:
        return math.inf
    if not finite.any():
        return 0.0
    largest = float(expected[finite].abs().max()) or 1.0
    return float((actual[finite] - expected[finite]).abs().max()) / largest


def tensors(result: Any, name: str = "result") -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of an operator's result."""
    if isinstance(result, Tensor):
        yield name, result
    elif isinstance(result, Sequence):
        for index, part in enumerate(result):
            yield from tensors(part, f"{name}[{index}]")


def form(value: Tensor) -> str:
    """Dtype and shape in words."""
    return f"{short(value.dtype)} {tuple(value.shape)}"
