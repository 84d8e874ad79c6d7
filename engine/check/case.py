"""One operator on one kind of input: how the input is made and what must not differ."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FLOAT32 = (torch.float32,)
WIDE = (torch.float64, *FLOATS)


class Draw:
    """Random input on the CPU that depends on the case alone."""

    def __init__(self, name: str) -> None:
        self.generator = torch.Generator().manual_seed(crc32(name.encode()))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32."""
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform float32 in [low, high)."""
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform int64 in [low, high)."""
        return torch.randint(low, high, shape, generator=self.generator)

    def order(self, count: int) -> Tensor:
        """A permutation of ``count`` rows."""
        return torch.randperm(count, generator=self.generator)


@dataclass(frozen=True)
class Case:
    """One operator on one input.

    Attributes:
        operator: public name.
        name: of the input, ``361 channels``.
        run: calls the operator with the input as keyword arguments; may return several tensors.
        make: the input, floating tensors in float32 on the CPU.
        dtypes: what the tensors of ``values`` are tried in.
        values: names of the tensors that take the dtype; the expected result is computed from
            them in float64, after they were rounded.
        gradients: names of the tensors whose gradient is compared too.
        products: the result is made of matrix products, which a device may round (TF32, HF32).
    """

    operator: str
    name: str
    run: Callable[..., Any]
    make: Callable[[Draw], Mapping[str, Any]]
    dtypes: tuple[torch.dtype, ...] = FLOAT32
    values: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    products: bool = False

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """The case's input with its values rounded to ``dtype``."""
        made = dict(self.make(Draw(f"{self.operator} {self.name}")))
        return made | {name: made[name].to(dtype) for name in self.values}


def cells(draw: Draw, count: int, batch_size: int, grid: tuple[int, int, int]) -> Tensor:
    """(count, 4) int32 distinct (b, x, y, z), in no order."""
    total = batch_size * math.prod(grid)
    key = draw.order(total)[:count]
    x, y, z = grid
    columns = (key // (x * y * z), key // (y * z) % x, key // z % y, key % z)
    return torch.stack(columns, 1).int()
