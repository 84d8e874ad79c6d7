"""Fixtures of the tests of patches."""

import importlib.util
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from anybev import patches


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Random numbers that a test draws without a seed are the same every time."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def host() -> Iterator[list[patches.Outcome]]:
    """Patches applied for the test module; skips where mmdetection3d is not installed."""
    if importlib.util.find_spec("mmdet3d") is None:
        pytest.skip("mmdetection3d is not installed: bash install.sh without --no-host")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host's own, while it is imported
        context = patches.applied()
        outcomes = context.__enter__()
    try:
        yield outcomes
    finally:
        context.__exit__(None, None, None)
