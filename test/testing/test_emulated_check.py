"""`anybev check` over the emulated CUDA kernels: its inputs, which no operator test shares."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anybev import envs
from anybev.device.ops import _native
from anybev.testing import cuda_emulation


@pytest.mark.slow
def test_every_emulated_kernel_passes_the_check(tmp_path: Path) -> None:
    try:
        library = cuda_emulation.build()
    except envs.MachineError as error:
        pytest.skip(str(error))
    path = tmp_path / "report.json"
    names = ",".join(sorted(_native.DECLARED["cuda"]))
    command = "from anybev.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", command, "check", "--ops", names, "--json", str(path)],
        env={"PATH": "/usr/bin:/bin", "ANYBEV_NATIVE_LIBRARY": str(library)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(path.read_text())
    assert report["evidence"] == "simulated"
    assert {row["implementation"] for row in report["rows"]} == {"native"}
