"""Names that numpy gave up, answered inside the one function that still uses them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from anybev.patches.host._overlay import Facade, with_globals

Function = Callable[..., Any]


def skip_reason_long() -> str | None:
    """Numpy 1.24 took ``np.long`` away, numpy 2 gave it back (as C's long)."""
    return f"numpy {np.__version__} has np.long" if hasattr(np, "long") else None


def long(original: Function) -> Function:
    """``np.long`` is int64, which it was on the platforms that upstream ran on."""
    return with_globals(original, np=Facade(np, long=np.int64))


def floating(original: Function) -> Function:
    """``np.float``, gone since numpy 1.24, was Python's float."""
    return with_globals(original, np=Facade(np, float=float))


def skip_reason_in1d() -> str | None:
    """Numpy 2.4 took ``np.in1d`` away."""
    return f"numpy {np.__version__} has np.in1d" if hasattr(np, "in1d") else None


def _in1d(ar1: Any, ar2: Any, assume_unique: bool = False, invert: bool = False) -> Any:
    """``np.isin`` of the flattened array, which is how numpy 2 defined ``np.in1d``."""
    return np.isin(np.asarray(ar1).ravel(), ar2, assume_unique=assume_unique, invert=invert)


def in1d(original: Function) -> Function:
    """``np.in1d`` through ``np.isin``: the same answer."""
    return with_globals(original, np=Facade(np, in1d=_in1d))
