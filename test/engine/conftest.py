"""A training of two ranks that nothing interrupts, to look at and to compare with."""

from pathlib import Path

import pytest

from anybev.testing.processes import Job
from anybev.testing.tiny_training import HALVES, arguments


@pytest.fixture(scope="session")
def unbroken(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its work directory: two epochs of five steps, a checkpoint every two, no evaluation."""
    work_dir = tmp_path_factory.mktemp("unbroken")
    command = arguments(synthetic_root, work_dir, more=HALVES)
    with Job(command, work_dir / "out.txt", ranks=2) as job:
        assert job.finish(300) == 0, job.output()[-3000:]
    return work_dir
