"""Lift and splat as an operator: registrations, threads, instruction sets, memory, errors."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.device.ops.lift_splat import _CONTRACT, lift_splat
from anybev.testing.tolerances import tolerances

LOWER_M, CELL_SIZE_M, GRID = [-4.0, -4.5, -2.0], [0.5, 0.4, 2.0], [16, 20, 2]


def inputs(
    batch_size: int = 2,
    cameras: int = 2,
    depths: int = 9,
    channels: int = 19,
    height: int = 18,
    width: int = 21,
) -> tuple[Any, ...]:
    """All arguments, in the operator's order; the same bits under every instruction set."""
    torch.manual_seed(0)
    pictures = batch_size, cameras
    logits = torch.rand(*pictures, depths + channels, height, width) * 6 - 3
    rays = torch.rand(*pictures, height, width, 3) * 4 - 2
    depths_m = torch.arange(1, depths + 1) * 0.4
    return logits, rays, torch.rand(*pictures, 3), depths_m, LOWER_M, CELL_SIZE_M, GRID


def run(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Result, and gradient of the logits for a gradient that differs from cell to cell."""
    leaf = arguments[0].detach().clone().requires_grad_()
    out = lift_splat(leaf, *arguments[1:])
    weight = (torch.arange(out.numel()) % 7 - 3).to(out.dtype).view(out.shape)
    return out.detach(), torch.autograd.grad(out, leaf, weight)[0]


@pytest.fixture
def native() -> None:
    """Skips where there is no compiled kernel."""
    if _CONTRACT.implementation("cpu") != "native":
        pytest.skip("no compiled lift_splat in this installation")


@pytest.fixture
def cpu_kernel(native: None, emulated: bool) -> None:
    """Skips where the compiled kernel is not the CPU's own."""
    if emulated:
        pytest.skip("threads and instruction sets are the CPU kernel's own")


@pytest.mark.usefixtures("cpu_kernel")
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_threads_do_not_change_a_bit(set_threads: Callable[[int], None], batch_size: int) -> None:
    arguments = inputs(batch_size, width=40)
    set_threads(1)
    alone = run(*arguments)
    for threads in (2, 3, 16):
        set_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(alone, run(*arguments), strict=True))


def every_shape() -> list[Tensor]:
    """Results and gradients that together pass through every loop of the kernels."""
    results: list[Tensor] = []
    for channels, height, depths in ((80, 32, 30), (70, 17, 9), (1, 5, 1)):
        logits, *rest = inputs(1, 2, depths, channels, height, 19)
        last = logits.movedim(2, -1).contiguous().movedim(-1, 2)
        for form in (logits, last, last.double()):
            results += run(form, *rest)
    return results


_PROBE = """
import torch
from test_lift_splat_contract import every_shape
torch.save(every_shape(), {path!r})
"""


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set_equals_reference(
    cpu_kernel: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: str
) -> None:
    path = tmp_path / "results.pt"
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": capability,
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
    }
    code = _PROBE.format(path=str(path))
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    narrow, widest = torch.load(path, weights_only=True), every_shape()
    monkeypatch.setenv("ANYBEV_OPS", "lift_splat=reference")
    for got in (narrow, widest):
        for ours, wanted in zip(got, every_shape(), strict=True):
            torch.testing.assert_close(ours, wanted, **tolerances(wanted.dtype))


def test_scratch_is_below_a_megabyte_a_thread(
    cpu_kernel: None, set_threads: Callable[[int], None]
) -> None:
    set_threads(2)
    logits, rays, origins, depths, *_ = inputs(1, 1, 118, 80, 32, 88)
    setting = ([-54.0, -54.0, -10.0], [0.3, 0.3, 20.0], [360, 360, 1])
    result = 4 * 360 * 360 * 80
    for direction in ("forward", "backward"):
        leaf = logits.clone().requires_grad_()
        out = lift_splat(leaf, rays, origins, depths, *setting)
        with torch.profiler.profile(profile_memory=True) as profile:
            if direction == "forward":
                lift_splat(leaf, rays, origins, depths, *setting)
            else:
                torch.ops.anybev.lift_splat_backward(
                    out.detach(), logits, rays, origins, depths, *setting
                )
        taken = sum(max(0, e.self_cpu_memory_usage) for e in profile.events())
        wanted = result if direction == "forward" else logits.nbytes
        assert wanted < taken < wanted + 2 * 2**20


@pytest.mark.parametrize("name", ["lift_splat", "lift_splat_reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, requires_grad: bool) -> None:
    logits, *rest = inputs(2, 2, 3, 4, 5, 6)
    operator = getattr(torch.ops.anybev, name).default
    torch.library.opcheck(operator, (logits.requires_grad_(requires_grad), *rest))


@pytest.mark.parametrize("name", ["lift_splat_backward", "lift_splat_backward_reference"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck_of_the_gradient(name: str, channels_last: bool) -> None:
    logits, *rest = inputs(2, 2, 3, 4, 5, 6)
    if channels_last:
        logits = logits.movedim(2, -1).contiguous().movedim(-1, 2)
    operator = getattr(torch.ops.anybev, name).default
    torch.library.opcheck(operator, (torch.randn(2, 8, 16, 20), logits, *rest))


def test_geometry_gets_no_gradient(implementation: str) -> None:
    arguments = inputs()
    leaves = [value.requires_grad_() for value in arguments[:4]]
    lift_splat(*arguments).sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, False, False, False]


def test_refuses_second_derivatives(implementation: str) -> None:
    logits, *rest = inputs()
    out = lift_splat(logits.requires_grad_(), *rest).square().sum()
    (grad,) = torch.autograd.grad(out, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="derivatives must be of the first order"):
        grad.sum().backward()


def test_autocast_computes_in_float32(implementation: str) -> None:
    logits, *rest = inputs()
    half = logits.bfloat16()
    expected = lift_splat(half, *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = half.clone().requires_grad_()
        out = lift_splat(leaf, *rest)
        assert torch.equal(lift_splat(half.float(), *rest), expected)
    out.sum().backward()
    assert torch.equal(out, expected)
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "lift_splat=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.lift_splat_reference.default


NAMES = ("logits", "rays_m", "origins_m", "depths_m", "lower_m", "cell_size_m", "grid")


def changed(change: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(NAMES, inputs(), strict=True)), **change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 2, 28, 18, 21, dtype=torch.int32)}, "logits must be float32 or"),
        ({"rays_m": torch.zeros(1).double()}, "rays_m must be float32, got float64"),
        ({"origins_m": [0.0]}, "origins_m must be a tensor, got list"),
        ({"depths_m": torch.ones(3).half()}, "depths_m must be float32, got float16"),
    ],
)
def test_refuses_dtypes(change: dict, message: str) -> None:
    with pytest.raises(TypeError, match=f"lift_splat: {message}"):
        lift_splat(**changed(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 28, 18, 21)}, r"logits must be \(B, N, D \+ C, h, w\), got"),
        ({"rays_m": torch.zeros(2, 2, 21, 18, 3)}, r"rays_m must be \(2, 2, 18, 21, 3\) for these"),
        ({"origins_m": torch.zeros(2, 1, 3)}, r"origins_m must be \(2, 2, 3\) for these logits"),
        ({"depths_m": torch.zeros(2, 2)}, r"depths_m must be \(4,\), got \(2, 2\)"),
        ({"depths_m": torch.zeros(28)}, "depths_m must be 1 to 27 depths.* got 28"),
        ({"depths_m": torch.zeros(0)}, "depths_m must be 1 to 27 depths.* got 0"),
        ({"depths_m": torch.zeros(9).to("meta")}, "depths_m must be on cpu, got meta"),
        ({"lower_m": [0, 0]}, r"lower_m must be 3 numbers, got \[0, 0\]"),
        ({"cell_size_m": [1, 1, 0]}, r"cell_size_m must be 3 positive numbers, got \[1, 1, 0\]"),
        ({"grid": [1, 0, 1]}, r"grid must be 3 numbers in \[1, 2\^24\), got \[1, 0, 1\]"),
        ({"grid": [1 << 16, 1 << 15, 1]}, r"grid must be at most 2\^31 - 1 cells"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"lift_splat: {message}"):
        lift_splat(**changed(change))


def test_kernels_refuse_what_the_wrapper_would(native: None) -> None:
    logits, rays, origins, depths, *rest = inputs()
    forward = torch.ops.anybev.lift_splat
    with pytest.raises(TypeError, match="must be float32, got Double"):
        forward(logits, rays.double(), origins, depths, *rest)
    with pytest.raises(ValueError, match=r"logits must be \(B, N, D \+ C, h, w\)"):
        forward(logits[0], rays, origins, depths, *rest)
    with pytest.raises(ValueError, match=r"rays_m must be \(B, N, h, w, 3\)"):
        forward(logits, rays[:, :1], origins, depths, *rest)
    with pytest.raises(ValueError, match=r"grid must be 3 numbers in"):
        forward(logits, rays, origins, depths, LOWER_M, CELL_SIZE_M, [16, 20])
    with pytest.raises(ValueError, match=r"grad must be \(B, C \* Z, X, Y\)"):
        torch.ops.anybev.lift_splat_backward(logits, *inputs())


def test_cuda_never_waits_for_the_device(device_waits: Callable[[], int]) -> None:
    before = device_waits()
    run(*inputs())
    assert device_waits() == before
