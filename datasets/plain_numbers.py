"""Numbers from files that anybody may have written."""

from typing import Any

import numpy as np

#: No pose, intrinsic or time stamp comes near; larger ones overflow in products.
HUGE = 1e15


def as_float(value: Any) -> float:
    """A number of Python's or numpy's; NaN for anything else, and for an int beyond floats."""
    try:
        known = isinstance(value, int | float | np.integer | np.floating)
        return float(value) if known else float("nan")
    except OverflowError:
        return float("nan")
