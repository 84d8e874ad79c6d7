"""BEV pooling against a loop over points."""

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anybev.device.ops import _native
from anybev.device.ops.bev_pool import _POOL, bev_pool
from anybev.testing.tolerances import tolerances

GRID = (7, 5, 2)
BATCH = 2


def points(
    count: int, channels: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Features and cells; half of the points crowd into one row of cells."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, channels, generator=generator).to(dtype)
    bounds = (BATCH, *GRID)
    axes = [torch.randint(0, n, (count,), generator=generator) for n in bounds]
    coords = torch.stack(axes, 1).int()
    coords[::2, 1] = 3
    return features, coords


def loop(features: Tensor, coords: Tensor) -> Tensor:
    """One point after the other, in float64."""
    channels = features.shape[1]
    out = torch.zeros(BATCH, channels * GRID[2], *GRID[:2], dtype=torch.float64)
    for row, (b, x, y, z) in zip(features.double(), coords.tolist(), strict=True):
        out[b, z * channels : (z + 1) * channels, x, y] += row
    return out


@pytest.mark.parametrize("count", [0, 1, 2, 300])
@pytest.mark.parametrize("channels", [1, 12, 80])
def test_equals_the_loop(implementation: str, count: int, channels: int) -> None:
    features, coords = points(count, channels)
    actual = bev_pool(features, coords, BATCH, GRID)
    assert actual.shape == (BATCH, channels * 2, 7, 5)
    assert actual.dtype == torch.float32
    expected = loop(features, coords).float()
    torch.testing.assert_close(actual, expected, **tolerances(torch.float32))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("channels", [3, 80])
def test_implementations_agree_to_the_last_bit(dtype: torch.dtype, channels: int) -> None:
    features, coords = points(60_000, channels, seed=1, dtype=dtype)
    arguments = (features, coords, BATCH, list(GRID))
    native = torch.ops.anybev.bev_pool(*arguments)
    assert torch.equal(native, torch.ops.anybev.bev_pool_reference(*arguments))
    grad = torch.randn_like(native)
    back = (grad, coords, list(GRID), dtype)
    native = torch.ops.anybev.bev_pool_backward(*back)
    assert native.dtype == dtype
    assert torch.equal(native, torch.ops.anybev.bev_pool_backward_reference(*back))


PORTABLE = """
import torch
from anybev.device.ops import bev_pool
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    features, coords = torch.randn(999, 13).to(dtype), torch.randint(0, 2, (999, 4)).int()
    native = torch.ops.anybev.bev_pool(features, coords, 2, [2, 2, 2])
    assert torch.equal(native, torch.ops.anybev.bev_pool_reference(features, coords, 2, [2, 2, 2]))
    back = (native, coords, [2, 2, 2], dtype)
    native = torch.ops.anybev.bev_pool_backward(*back)
    assert torch.equal(native, torch.ops.anybev.bev_pool_backward_reference(*back))
"""


def test_same_bits_without_wide_instructions(emulated: bool) -> None:
    if emulated:
        pytest.skip("instruction sets are the CPU kernel's own")
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([sys.executable, "-c", PORTABLE], env=environment, check=True, timeout=300)


def test_channel_of_a_point_is_z_times_c_plus_c(implementation: str) -> None:
    features = torch.tensor([[1.0, 2.0, 3.0]])
    out = bev_pool(features, torch.tensor([[1, 6, 4, 1]], dtype=torch.int32), BATCH, GRID)
    assert out.nonzero().tolist() == [[1, c, 6, 4] for c in (3, 4, 5)]
    assert out[1, 3:, 6, 4].tolist() == [1, 2, 3]


def test_output_is_channels_last(implementation: str) -> None:
    out = bev_pool(*points(10), BATCH, GRID)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_summed_in_float32(implementation: str, dtype: torch.dtype) -> None:
    features = torch.full((5000, 1), 1.0, dtype=dtype)  # 4096 + 1 is 4096 in both halves
    coords = torch.zeros(5000, 4, dtype=torch.int32)
    out = bev_pool(features, coords, 1, (1, 1, 1))
    assert out.dtype == torch.float32
    assert out.item() == 5000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [5, 16])
def test_gradient_is_the_cell_that_a_point_fell_into(
    implementation: str, dtype: torch.dtype, channels: int
) -> None:
    features, coords = points(50, channels, dtype=dtype)
    out = bev_pool(features.requires_grad_(), coords, BATCH, GRID)
    grad = torch.randn(out.shape)  # rows of an ordinary, not channels-last, gradient
    grad[0, 0, 3] = torch.tensor([math.inf, -math.inf, math.nan, 1e-30, 3e38])
    out.backward(grad)
    assert features.grad is not None
    assert features.grad.dtype == dtype
    for row, (b, x, y, z) in zip(features.grad, coords.tolist(), strict=True):
        expected = grad[b, z * channels : (z + 1) * channels, x, y].to(dtype)
        assert torch.equal(row.nan_to_num(7), expected.nan_to_num(7))


def test_gradcheck_twice(implementation: str) -> None:
    features, coords = points(20, 3, dtype=torch.float64)
    pool = lambda x: bev_pool(x, coords, BATCH, GRID)  # noqa: E731
    assert torch.autograd.gradcheck(pool, features.requires_grad_())
    assert torch.autograd.gradgradcheck(pool, features)


def test_not_finite_features_stay_in_their_cell(implementation: str) -> None:
    features, coords = points(40)
    coords[:, 0] = 0
    coords[7, 0] = 1
    features[7] = math.nan
    out = bev_pool(features, coords, BATCH, GRID)
    assert out.isnan().sum() == features.shape[1]
    assert not out[0].isnan().any()


def test_non_contiguous(implementation: str) -> None:
    features, coords = points(60)
    strided = features.t().contiguous().t(), coords.t().contiguous().t()
    assert not strided[0].is_contiguous()
    assert torch.equal(bev_pool(*strided, BATCH, GRID), bev_pool(features, coords, BATCH, GRID))


def test_threads_do_not_change_a_bit(set_threads: Callable[[int], None], emulated: bool) -> None:
    if emulated:
        pytest.skip("an emulated kernel runs on one thread")
    features, coords = points(70_000)
    results, grads = [], []
    for threads in (1, 2, 4):
        set_threads(threads)
        leaf = features.clone().requires_grad_()
        results.append(bev_pool(leaf, coords, BATCH, GRID))
        results[-1].square().sum().backward()
        grads.append(leaf.grad)
    for other in (1, 2):
        assert torch.equal(results[0], results[other])
        assert torch.equal(grads[0], grads[other])  # type: ignore[arg-type]


def test_autocast_changes_nothing(implementation: str) -> None:
    features, coords = points(50)
    expected = bev_pool(features, coords, BATCH, GRID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bev_pool(features, coords, BATCH, GRID), expected)


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "bev_pool=reference")
    assert _POOL.overload() is torch.ops.anybev.bev_pool_reference.default


@pytest.mark.parametrize("suffix", ["", "_reference"])
def test_opcheck(suffix: str) -> None:
    features, coords = points(30)
    operator = getattr(torch.ops.anybev, f"bev_pool{suffix}").default
    torch.library.opcheck(operator, (features.requires_grad_(), coords, BATCH, list(GRID)))
    grad = torch.randn(BATCH, 24, *GRID[:2], requires_grad=True)
    operator = getattr(torch.ops.anybev, f"bev_pool_backward{suffix}").default
    torch.library.opcheck(operator, (grad, coords, list(GRID), torch.float32))


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("above", [False, True])
def test_refuses_a_point_outside_the_grid(implementation: str, axis: int, above: bool) -> None:
    features, coords = points(50)
    coords[41, axis] = (BATCH, *GRID)[axis] if above else -1
    with pytest.raises(ValueError, match=r"coords must be in \[0, \[2, 7, 5, 2\]\), got"):
        bev_pool(features, coords, BATCH, GRID)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4, 3, dtype=torch.int32)}, "features must be float32 or"),
        ({"coords": torch.zeros(4, 4)}, "coords must be int32, got float32"),
        ({"coords": torch.zeros(4, 4, dtype=torch.int64)}, "coords must be int32, got int64"),
    ],
)
def test_refuses_dtypes(change: dict, message: str) -> None:
    arguments = {**dict(zip(("features", "coords"), points(4), strict=True)), **change}
    with pytest.raises(TypeError, match=message):
        bev_pool(**arguments, batch_size=BATCH, grid=GRID)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4)}, r"features must be \(M, C\), got \(4,\)"),
        ({"coords": torch.zeros(4, 3).int()}, r"coords must be \(M, 4\), got \(4, 3\)"),
        ({"coords": torch.zeros(5, 4).int()}, r"coords must be \(4, 4\) as .*, got \(5, 4\)"),
        ({"coords": torch.zeros(4, 4).int().to("meta")}, "coords must be on cpu, got meta"),
        ({"batch_size": 0}, r"batch_size and grid must be .*, got 0 and \[7, 5, 2\]"),
        ({"grid": (7, 5)}, r"batch_size and grid must be .*, got 2 and \[7, 5\]"),
        ({"grid": (7, 0, 2)}, r"batch_size and grid must be .*, got 2 and \[7, 0, 2\]"),
        ({"grid": (1 << 15, 1 << 15, 1)}, r"must be at most 2\^31 - 1 cells, got 2 \* 32768"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    features, coords = points(4)
    setting = {"batch_size": BATCH, "grid": GRID}
    with pytest.raises(ValueError, match=message):
        bev_pool(**{"features": features, "coords": coords, **setting, **change})


@pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4)}, r"features must be \(P, C\), got \[4\]"),
        ({"coords": torch.zeros(4, 2).int()}, r"coords must be \(4, 4\) int32, got \[4, 2\] Int"),
        ({"coords": torch.zeros(3, 4).int()}, r"coords must be \(4, 4\) int32, got \[3, 4\] Int"),
        ({"coords": torch.zeros(4, 4)}, r"coords must be \(4, 4\) int32, got \[4, 4\] Float"),
        ({"grid": (7, 5)}, r"batch_size and grid must be .*, got 2 and \[7, 5\]"),
        ({"grid": (7, -5, 2)}, r"batch_size and grid must be .*, got 2 and \[7, -5, 2\]"),
        ({"grid": (1 << 40, 1 << 40, 1 << 40)}, r"batch_size and grid must be .* 2\^31 - 1 cells"),
        ({"batch_size": 0}, r"batch_size and grid must be .*, got 0 and \[7, 5, 2\]"),
    ],
)
def test_the_kernel_trusts_no_shape(change: dict, message: str) -> None:
    features, coords = points(4)
    setting = {"features": features, "coords": coords, "batch_size": BATCH, "grid": GRID}
    with pytest.raises(ValueError, match=message):
        torch.ops.anybev.bev_pool(**(setting | change))


@pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))
@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 5, 7, 5), (2, 6, 6, 5), (2, 6, 7, 6)])
def test_the_backward_kernel_trusts_no_shape(shape: tuple[int, ...]) -> None:
    _, coords = points(4)
    with pytest.raises(ValueError, match=r"grad must be \(B, C \* Z, X, Y\)"):
        torch.ops.anybev.bev_pool_backward(torch.zeros(shape), coords, GRID, torch.float32)


def test_cuda_waits_for_the_device_once_a_direction(device_waits: Callable[[], int]) -> None:
    features, coords = points(60)
    before = device_waits()
    out = bev_pool(features.requires_grad_(), coords, BATCH, GRID)
    assert device_waits() - before == 1
    out.sum().backward()
    assert device_waits() - before == 2
