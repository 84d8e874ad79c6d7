"""Samples and built models of mmdetection3d's own configs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from anybev.testing.host_models import WRITERS


@pytest.fixture(scope="session")
def samples(
    synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Folder of a data set by its name, written when first asked for."""
    written = {"nuscenes": synthetic_root}

    def folder(data: str) -> Path:
        if data not in written:
            written[data] = WRITERS[data](tmp_path_factory.mktemp(data))
        return written[data]

    return folder
