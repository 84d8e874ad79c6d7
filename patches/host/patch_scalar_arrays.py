"""Arrays of one number given to ``float``, which numpy 2.4 takes for numbers no more."""

from collections.abc import Callable
from typing import Any

import numpy as np

from anybev.patches.host._overlay import with_globals

Function = Callable[..., Any]


def skip_reason() -> str | None:
    """Numpy before 2.4 turns an array of one number into that number."""
    before = np.lib.NumpyVersion(np.__version__) < "2.4.0"
    return f"numpy {np.__version__} converts arrays of one number" if before else None


def _number(value: Any) -> float:
    return float(value.item()) if isinstance(value, np.ndarray) else float(value)


def replace(original: Function) -> Function:
    """``float`` of an array of one number is that number, as before numpy 2.4."""
    return with_globals(original, float=_number)
