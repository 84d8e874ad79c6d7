"""Numbers from files that anybody may have written."""

import math

import numpy as np
import pytest

from anybev.datasets.plain_numbers import as_float


@pytest.mark.parametrize(
    ("value", "wanted"), [(3, 3.0), (2.5, 2.5), (np.float32(0.5), 0.5), (True, 1.0)]
)
def test_numbers_are_floats(value: object, wanted: float) -> None:
    assert as_float(value) == wanted


@pytest.mark.parametrize("value", [None, "1.0", [1.0], 10**400, np.complex64(1j)])
def test_anything_else_is_not_a_number(value: object) -> None:
    assert math.isnan(as_float(value))
