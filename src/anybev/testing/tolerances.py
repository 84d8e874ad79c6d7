"""The only place where tests get their tolerances from; each says what it covers."""

import torch

# (rtol, atol) of one rounding-limited operation per dtype, scaled for sums of a few hundred terms.
_BY_DTYPE = {
    torch.float64: (1e-9, 1e-10),
    torch.float32: (2e-5, 1e-5),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float16: (4e-3, 4e-3),
}

# Operators whose worst error is wider, with the reason.
_BY_OPERATOR: dict[tuple[str, torch.dtype], tuple[float, float]] = {
    # Whole-model gradients whose sums over samples are split over processes.
    ("data_parallel", torch.float32): (1e-3, 1e-3),
    # Boxes of a whole model, metres and radians, whose input was turned or scaled and back.
    ("boxes", torch.float32): (0.0, 1e-3),
}


def tolerances(dtype: torch.dtype, operator: str = "") -> dict[str, float]:
    """Keyword arguments for ``torch.testing.assert_close``."""
    rtol, atol = _BY_OPERATOR.get((operator, dtype), _BY_DTYPE[dtype])
    return {"rtol": rtol, "atol": atol}
