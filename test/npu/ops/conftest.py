"""Fixtures of the adapters' tests: a checked stand-in of mx_driving."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anybev import envs
from anybev.testing.fake_mx_driving import Binding, stand_in, unpacked


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Folder with the package of the wheel that ANYBEV_MX_DRIVING_WHEEL names."""
    named = envs.mx_driving_wheel()
    return named and unpacked(named, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(params=["stand-in", "wheel"] if envs.mx_driving_wheel() else ["stand-in"])
def mx(request: pytest.FixtureRequest, wheel: Path | None) -> Iterator[Binding]:
    """The checked binding, under our words of mx_driving's Python layer and, given one, a wheel's.

    test_wheel.py says so when there is none.
    """
    with stand_in(wheel if request.param == "wheel" else None) as binding:
        yield binding


@pytest.fixture
def draw() -> torch.Generator:
    """Seeded numbers."""
    return torch.Generator().manual_seed(0)
