"""The order in which threads and blocks run, shuffled by the emulator, changes no bit."""

import json
import os
import subprocess
import sys

import pytest

from anybev import envs
from anybev.testing import cuda_emulation

# Digests by operator of every case of `anybev check`, results and gradients.
_DIGESTS = """
import hashlib, json, sys
sys.path.insert(0, {folder!r})
from test_cuda import OPERATORS, bits, cases_of, run
digests = {{}}
for operator in OPERATORS:
    digest = hashlib.sha256()
    for case in cases_of(operator):
        for dtype in case.dtypes:
            for value in run(case, case.inputs(dtype)):
                digest.update(bits(value).numpy().tobytes())
    digests[operator] = digest.hexdigest()
print(json.dumps(digests))
"""


def digests(library: str, seed: str) -> dict[str, str]:
    environment = {**os.environ, "ANYBEV_NATIVE_LIBRARY": library}
    environment.pop("ANYBEV_EMULATION_SEED", None)
    if seed:
        environment["ANYBEV_EMULATION_SEED"] = seed
    code = _DIGESTS.format(folder=os.path.dirname(__file__))
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=900)
    result: dict[str, str] = json.loads(out.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_the_order_of_threads_changes_no_bit(emulated: bool) -> None:
    try:
        library = str(envs.native_library() if emulated else cuda_emulation.build())
    except envs.MachineError as error:
        pytest.skip(str(error))
    in_order = digests(library, "")
    for seed in ("1", "2"):
        assert digests(library, seed) == in_order
