"""The Triton kernels for tensors of the simulated npu: interpreted, in a process of their own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "device" / "triton"
_PROBE = """
import torch
from anybev.testing import simnpu
simnpu.activate()
import test_lift_splat as t
for name in ("general", "float16", "logits that are not finite"):
    arguments = t.inputs(t.CASES[name])
    out, grad = t.results(arguments, torch.device("npu", 1))
    reference = torch.ops.anybev
    for ours, theirs in (
        (out, reference.lift_splat_reference(*arguments)),
        (grad, reference.lift_splat_backward_reference(t.weight_of(out), *arguments)),
    ):
        limit = t.tolerances(ours.dtype)
        torch.testing.assert_close(ours, theirs, equal_nan=True, **limit)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_lift_splat_on_the_second_device_equals_the_reference() -> None:
    environment = {
        **os.environ,
        "ANYBEV_OPS": "lift_splat=triton",
        "PYTHONPATH": f"{FOLDER}:{os.environ.get('PYTHONPATH', '')}",
        "TRITON_INTERPRET": "1",
    }
    command = [sys.executable, "-c", _PROBE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
