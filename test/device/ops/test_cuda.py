"""Every operator of BEVFusion, and a training step, on a real GPU against the CPU.

The CUDA kernels themselves run emulated in the operators' own tests; this is what only a GPU shows.
Reads and writes out of bounds, and races in shared memory, are found by

    compute-sanitizer --tool memcheck  python -m pytest test/device/ops/test_cuda.py
    compute-sanitizer --tool racecheck python -m pytest test/device/ops/test_cuda.py

with PYTORCH_NO_CUDA_MEMORY_CACHING=1, which gives every tensor an allocation of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybev import envs
from anybev.engine.builder import build_detector
from anybev.engine.check.case import Case
from anybev.engine.check.compare import tensors
from anybev.engine.check.operators import all_cases
from anybev.engine.check.step import take_step, without_chance
from anybev.testing.tiny_cameras import tiny_camera_batch, tiny_camera_cfg
from anybev.testing.tolerances import tolerances

OPERATORS = sorted({case.operator for case in all_cases()})
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
_WAIT_CYCLES = 100_000_000

Values = list[Tensor]


def devices() -> list[torch.device]:
    """GPUs of this machine whose kernels can be tried."""
    if not torch.cuda.is_available() or envs.native_library() is not None:
        return []
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def device_for(what: str, index: int = 0) -> torch.device:
    found = devices()
    if not found:
        pytest.skip(f"no NVIDIA GPU: {what} was not run on cuda")
    if index >= len(found):
        pytest.skip(f"one NVIDIA GPU: {what} was not run on a second one")
    return found[index]


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """Products of float32 with all their bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def cases_of(operator: str, dtype: torch.dtype | None = None) -> list[Case]:
    return [c for c in all_cases() if c.operator == operator and dtype in (None, *c.dtypes)]


def moved(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def run(case: Case, inputs: Mapping[str, Any]) -> Values:
    """Results and gradients of a case."""
    leaves = {name: inputs[name].detach().requires_grad_() for name in case.gradients}
    results = [value for _, value in tensors(case.run(**{**inputs, **leaves}))]
    outputs = [value for value in results if value.requires_grad]
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(v.shape, generator=generator).to(v) for v in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), weights) if leaves else ()
    return [*(value.detach() for value in results), *grads]


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Integers are equal; rounding is relative to the largest value, sums of any sign."""
    if not expected.dtype.is_floating_point:
        assert torch.equal(actual.cpu(), expected), what
        return
    limits = tolerances(expected.dtype)
    finite = expected[expected.isfinite()].abs()
    limits["atol"] *= max(1.0, float(finite.max()) if len(finite) else 1.0)
    torch.testing.assert_close(
        actual.cpu(), expected, **limits, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def same(actual: Values, expected: Values) -> bool:
    """Whether every bit is the same."""
    pairs = zip(actual, expected, strict=True)
    return all(torch.equal(bits(a), bits(b)) for a, b in pairs)


def bits(value: Tensor) -> Tensor:
    return value.cpu().contiguous().view(torch.uint8) if value.dim() else value.cpu()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_results_and_gradients(operator: str, dtype: torch.dtype) -> None:
    device = device_for(operator)
    cases = cases_of(operator, dtype)
    if not cases:
        pytest.skip(f"{operator} does not take {dtype}")
    for case in cases:
        inputs = case.inputs(dtype)
        actual, expected = run(case, moved(inputs, device)), run(case, inputs)
        for index, (got, right) in enumerate(zip(actual, expected, strict=True)):
            assert got.device == device
            assert (got.dtype, got.shape) == (right.dtype, right.shape)
            close(got, right, f"{operator}, {case.name}, tensor {index}")


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_run_gives_the_same_bits(operator: str) -> None:
    device = device_for(operator)
    for case in cases_of(operator):
        inputs = moved(case.inputs(case.dtypes[0]), device)
        first = run(case, inputs)
        assert all(same(run(case, inputs), first) for _ in range(3)), case.name


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_stream_of_its_own(operator: str) -> None:
    """Inputs arrive late on another stream: who does not wait for it reads zeros."""
    device = device_for(operator)
    stream = torch.cuda.Stream(device)
    for case in cases_of(operator):
        inputs = moved(case.inputs(case.dtypes[0]), device)
        expected = run(case, inputs)
        late = {k: torch.zeros_like(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        torch.cuda.synchronize(device)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(_WAIT_CYCLES)
            for name, value in inputs.items():
                if isinstance(value, Tensor):
                    late[name].copy_(value)
            actual = run(case, late)
        stream.synchronize()
        assert same(actual, expected), case.name


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_device_that_is_not_the_current_one(operator: str) -> None:
    device, second = device_for(operator), device_for(operator, 1)
    torch.cuda.set_device(device)
    for case in cases_of(operator):
        inputs = case.inputs(case.dtypes[0])
        actual, expected = run(case, moved(inputs, second)), run(case, moved(inputs, device))
        assert all(value.device == second for value in actual)
        assert same(actual, expected), case.name


def stepped(device: torch.device) -> tuple[nn.Module, dict[str, Tensor]]:
    """BEVFusion after forward and backward: the same weights, the same batch, no dropout."""
    torch.manual_seed(0)
    model = build_detector(without_chance(tiny_camera_cfg())).to(device)
    return model, take_step(model, tiny_camera_batch().to(device))


def test_a_training_step_of_bevfusion() -> None:
    device = device_for("BEVFusion's training step")
    (model, losses), (right, expected) = stepped(device), stepped(torch.device("cpu"))
    limits = tolerances(torch.float32, "data_parallel")
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].cpu(), value, **limits)
    wanted = {name: p.grad for name, p in right.named_parameters() if p.grad is not None}
    actual = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert actual.keys() == wanted.keys()
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in wanted.items():
        difference = (actual[name].cpu() - grad).abs().max()
        assert difference <= limits["rtol"] * largest, name
