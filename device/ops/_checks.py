"""Argument checks that the operator wrappers share: one wording, one exception type each."""

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def check_dtype(operator: str, name: str, value: Tensor, *allowed: torch.dtype) -> None:
    """Raise TypeError unless ``value`` is a tensor of one of the ``allowed`` dtypes."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{operator}: {name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in allowed:
        names = " or ".join(str(d).removeprefix("torch.") for d in allowed)
        actual = str(value.dtype).removeprefix("torch.")
        raise TypeError(f"{operator}: {name} must be {names}, got {actual}")


def check_floating(operator: str, name: str, value: Tensor) -> None:
    """Raise TypeError unless ``value`` is a tensor of a floating dtype."""
    check_dtype(operator, name, value, torch.float32, torch.float64, *HALF)


def check_columns(operator: str, name: str, value: Tensor, columns: int, *, rows: str) -> None:
    """Raise ValueError unless ``value`` is (rows, columns)."""
    if value.dim() != 2 or value.shape[1] != columns:
        raise ValueError(
            f"{operator}: {name} must be ({rows}, {columns}), got {tuple(value.shape)}"
        )


def check_min_columns(operator: str, name: str, value: Tensor, columns: int, *, rows: str) -> None:
    """Raise ValueError unless ``value`` is (rows, at least columns)."""
    if value.dim() != 2 or value.shape[1] < columns:
        raise ValueError(
            f"{operator}: {name} must be ({rows}, >={columns}), got {tuple(value.shape)}"
        )


def check_length(operator: str, name: str, value: Tensor, length: int) -> None:
    """Raise ValueError unless ``value`` is (length,)."""
    if value.dim() != 1 or value.shape[0] != length:
        raise ValueError(f"{operator}: {name} must be ({length},), got {tuple(value.shape)}")


def check_same_device(operator: str, name: str, value: Tensor, expected: torch.device) -> None:
    """Raise ValueError unless ``value`` is on ``expected``."""
    if value.device != expected:
        raise ValueError(f"{operator}: {name} must be on {expected}, got {value.device}")


def promote_half(*values: Tensor) -> tuple[Tensor, ...]:
    """Every tensor in one dtype: the widest of them, float16 and bfloat16 raised to float32."""
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in values) else torch.float32
    return tuple(v.to(dtype) for v in values)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over many values of ``dtype`` are kept and returned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
