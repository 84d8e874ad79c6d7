"""Lift and splat in Triton against the lifted volume in float64 and against the reference.

Whether Triton interprets is settled when it is imported, so a process of its own computes: on the
CPU by the interpreter, on a device by the compiler.
"""

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev import envs
from anybev.device.backend import current_backend
from anybev.device.ops.lift_splat import _BACKWARD, _CONTRACT, lift_splat
from anybev.device.ops.nms_rotated import _CONTRACT as NMS
from anybev.device.triton import check_runs_on
from anybev.testing.tolerances import tolerances

LOWER_M, CELL_SIZE_M = [-4.0, -4.5, -2.0], [2.0, 1.6, 2.0]


class Case(NamedTuple):
    """Sizes of a problem; ``inputs`` makes its tensors."""

    batch_size: int = 2
    cameras: int = 2
    depths: int = 5
    channels: int = 19
    height: int = 3
    width: int = 3
    grid: tuple[int, int, int] = (4, 5, 2)
    dtype: torch.dtype = torch.float32
    form: str = ""


CASES = {
    "general": Case(),
    "channels last": Case(1, form="channels last"),
    "slice": Case(1, form="slice"),
    "float64": Case(1, dtype=torch.float64),
    "float16": Case(1, dtype=torch.float16),
    "bfloat16": Case(1, dtype=torch.bfloat16, form="channels last"),
    "published channels": Case(1, 1, 4, 80, 1, 5, (2, 2, 1)),
    "channels in several tiles": Case(1, 1, 130, 40, 1, 2, (2, 3, 1)),
    "pixels in several blocks": Case(1, 2, 3, 2, 3, 9, (2, 2, 1)),
    "many points a cell": Case(1, 1, 40, 3, 2, 5, (1, 1, 1)),
    "one of everything": Case(1, 1, 1, 1, 1, 1, (1, 1, 1)),
    "no camera": Case(1, 0, grid=(2, 2, 1)),
    "no sample": Case(0),
    "rays that are not finite": Case(1, form="not finite"),
    "logits that are not finite": Case(1, form="nan"),
}

TINY = Case(1, 1, 2, 3, 1, 2, (2, 1, 1))


def inputs(case: Case) -> tuple[Any, ...]:
    """All arguments, in the operator's order."""
    generator = torch.Generator().manual_seed(0)
    pictures = case.batch_size, case.cameras
    shape = (*pictures, case.depths + case.channels, case.height, case.width)
    logits = (torch.randn(shape, generator=generator) * 2).to(case.dtype)
    rays = torch.randn(*pictures, case.height, case.width, 3, generator=generator)
    origins = torch.randn(*pictures, 3, generator=generator)
    if case.form == "channels last":
        logits = logits.movedim(2, -1).contiguous().movedim(-1, 2)
    elif case.form == "slice":
        logits = torch.stack([logits, logits], -1)[..., 0]
        rays = rays.transpose(2, 3).contiguous().transpose(2, 3)
    elif case.form == "not finite":
        rays.view(-1)[:9:2] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -1e20])
    elif case.form == "nan":
        rays[0, 0, :2, 0] = 1000.0  # every point of these pixels is outside
        logits[0, 0, 0, 1, 0] = torch.nan
        logits[0, 0, case.depths + 1, 0, :2] = torch.nan
        logits[0, 1, :2, 1, 1] = torch.nan
        logits[0, 1, 1, 2, 2] = -torch.inf
    depths = torch.arange(1, case.depths + 1) * 0.4
    return logits, rays, origins, depths, LOWER_M, CELL_SIZE_M, list(case.grid)


def borders() -> tuple[Any, ...]:
    """Weight and context are 1, so cells hold counts: points within two roundings of a border.

    Another order of operations, a product with the reciprocal or a fused multiplication and
    addition each move tens of the points to another cell.
    """
    generator = torch.Generator().manual_seed(2)
    size, grid, depth, origin, lower = [0.33, 0.21, 0.07], [6, 3, 2], 1.7, 0.03, -0.7
    border = [torch.randint(0, n + 1, (20, 100), generator=generator) for n in grid]
    rays = (torch.stack(border, -1) * torch.tensor(size) + lower - origin) / depth
    roundings = torch.randint(-2, 3, rays.shape, generator=generator, dtype=torch.int32)
    rays = (rays.view(torch.int32) + roundings).view(torch.float32)[None, None]
    geometry = rays, torch.full((1, 1, 3), origin), torch.tensor([depth])
    return torch.ones(1, 1, 2, 20, 100), *geometry, [lower] * 3, size, grid


def weight_of(out: Tensor) -> Tensor:
    """A gradient that differs from cell to cell."""
    return (torch.arange(out.numel()) % 7 - 3).to(out.dtype).view(out.shape).to(out.device)


def results(arguments: tuple[Any, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Result and gradient of the logits, on the CPU."""
    leaf, *geometry = (v.to(device) for v in arguments[:4])
    leaf = leaf.detach().requires_grad_()
    out = lift_splat(leaf, *geometry, *arguments[4:])
    (grad,) = torch.autograd.grad(out, leaf, weight_of(out))
    assert grad.stride() == torch.empty_like(leaf).stride()
    return out.detach().cpu(), grad.cpu()


def computed() -> dict[str, tuple[Tensor, Tensor]]:
    """Everything the process of its own computes; torch's own checks run there too."""
    device = current_backend().device()
    found = {name: results(inputs(case), device) for name, case in CASES.items()}
    found["again"] = results(inputs(CASES["many points a cell"]), device)
    logits, *rest = (v.to(device) if isinstance(v, Tensor) else v for v in inputs(TINY))
    leaf = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lift_splat(x, *rest), leaf)
    out = lift_splat(logits, *rest)
    torch.library.opcheck(torch.ops.anybev.lift_splat_triton, (logits, *rest))
    torch.library.opcheck(torch.ops.anybev.lift_splat_backward_triton, (out, logits, *rest))
    tensors, setting = borders()[:4], borders()[4:]
    counts = lift_splat(*(v.to(device) for v in tensors), *setting).cpu()
    return {**found, "borders": (counts, counts)}


def volume(logits: Tensor, rays: Tensor, origins: Tensor, depths: Tensor, *setting: Any) -> Tensor:
    """The sums by way of the lifted volume: cells in NumPy's float32, the rest in float64."""
    lower, size, (nx, ny, nz) = np.float32(setting[0]), np.float32(setting[1]), setting[2]
    d = len(depths)
    samples = []
    for values, ray, origin in zip(logits.double(), rays.numpy(), origins.numpy(), strict=True):
        lifted = values[:, :d].softmax(1)[:, None] * values[:, d:, None]  # (N, C, D, h, w)
        rows = lifted.permute(0, 2, 3, 4, 1).flatten(0, 3)
        with np.errstate(all="ignore"):
            points = depths.numpy()[None, :, None, None, None] * ray[:, None]
            cell = (points + origin[:, None, None, None] - lower) / size
        kept = ((cell > -1) & (cell < np.array([nx, ny, nz]))).all(-1).ravel()
        x, y, z = torch.from_numpy(cell.reshape(-1, 3)[kept]).long().unbind(1)
        out = rows.new_zeros(nx * ny * nz, rows.shape[1])
        samples.append(out.index_add(0, (x * ny + y) * nz + z, rows[torch.from_numpy(kept)]))
    stacked = torch.stack(samples) if samples else logits.new_zeros((0,)).double()
    shape = (len(logits), nx, ny, nz * (logits.shape[2] - d))
    return stacked.view(shape).permute(0, 3, 1, 2)


_PROBE = "import torch, test_lift_splat as t; torch.save(t.computed(), {path!r})"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """What the kernels gave."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (requirements/test.txt)")
    path = tmp_path_factory.mktemp("triton") / "results.pt"
    environment = {
        **os.environ,
        "ANYBEV_OPS": "lift_splat=triton",
        "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}",
        "TRITON_CACHE_DIR": str(path.parent / "cache"),
        "TRITON_INTERPRET": "1" if current_backend().device().type == "cpu" else "0",
    }
    command = [sys.executable, "-c", _PROBE.format(path=str(path))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded: dict[str, tuple[Tensor, Tensor]] = torch.load(path, weights_only=True)
    return loaded


@pytest.mark.parametrize("name", CASES)
def test_equals_the_lifted_volume(found: dict[str, tuple[Tensor, Tensor]], name: str) -> None:
    out, grad = found[name]
    logits, *rest = inputs(CASES[name])
    leaf = logits.double().requires_grad_()
    expected = volume(leaf, *rest)
    assert out.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(
        out.double(), expected.detach(), equal_nan=True, **tolerances(out.dtype)
    )
    if CASES[name].form == "nan" or not len(logits):
        return  # the volume's gradient is not a number in points that do not count
    (expected,) = torch.autograd.grad(expected, leaf, weight_of(expected))
    assert grad.dtype == logits.dtype
    torch.testing.assert_close(grad.double(), expected, **tolerances(logits.dtype))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(found: dict[str, tuple[Tensor, Tensor]], name: str) -> None:
    out, grad = found[name]
    arguments = inputs(CASES[name])
    expected = torch.ops.anybev.lift_splat_reference(*arguments)
    assert out.stride() == expected.stride()
    torch.testing.assert_close(out, expected, equal_nan=True, **tolerances(out.dtype))
    backward = torch.ops.anybev.lift_splat_backward_reference
    expected = backward(weight_of(out), *arguments)
    torch.testing.assert_close(grad, expected, equal_nan=True, **tolerances(grad.dtype))


def test_the_same_points_in_the_same_cells(found: dict[str, tuple[Tensor, Tensor]]) -> None:
    expected = torch.ops.anybev.lift_splat_reference(*borders())
    assert expected.sum() > 500
    assert torch.equal(found["borders"][0], expected)


def test_a_repetition_has_the_same_bits(found: dict[str, tuple[Tensor, Tensor]]) -> None:
    for first, second in zip(found["many points a cell"], found["again"], strict=True):
        assert torch.equal(first, second)


def test_forced_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "lift_splat=triton")
    assert _CONTRACT.overload() is torch.ops.anybev.lift_splat_triton.default
    assert _BACKWARD.overload() is torch.ops.anybev.lift_splat_backward_triton.default
    assert {_CONTRACT.implementation(name) for name in envs.BACKENDS} == {"triton"}


def test_an_operator_without_one_says_which_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "nms_rotated=triton")
    with pytest.raises(ValueError, match=r"ANYBEV_OPS: nms_rotated must be reference.* lift_splat"):
        NMS.overload()


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "lift_splat=triton")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(envs.MachineError, match="lift_splat: triton must be installed"):
        lift_splat(*inputs(Case()))


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_what_the_kernels_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "lift_splat=triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(envs.MachineError, match="logits must be on a device that Triton compiles"):
        lift_splat(*inputs(Case()))
    with pytest.raises(ValueError, match="depths_m must be at most 4096 depths in the Triton"):
        lift_splat(*inputs(Case(1, 1, 4097, 1, 1, 1)))
    *arguments, _ = inputs(Case(1, 1, 5, 80, 1, 1))
    with pytest.raises(ValueError, match="a sample must have at most 2\\^31 - 1 logits and"):
        lift_splat(*arguments, [1 << 20, 1 << 5, 1])


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_wrong_package_for_a_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = importlib.import_module("anybev.device.triton.lift_splat_kernel").gradient
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for device, package in (("npu", "triton-ascend"), ("cuda", "triton")):
        with pytest.raises(envs.MachineError, match=f"of the package {package} for {device}, got"):
            check_runs_on("lift_splat", kernel, SimpleNamespace(type=device))
