"""Fixtures that every test may use."""

from pathlib import Path

import pytest
import torch

from anybev import envs


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real sample data; the test skips where it is missing."""
    folder = envs.test_data()
    if not (folder / "data").is_dir():
        pytest.skip(f"no real sample data at {folder} (set ANYBEV_TEST_DATA)")
    return folder


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine; the absent ones skip."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device(request.param)
