"""Sparse convolution where kernels differ in how they multiply: large kernels, tiles, TF32."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import SparseNeighbors, sparse_neighbors
from anybev.testing.tolerances import tolerances

SHAPE = (12, 11, 9)
DOWN = {"stride": (2, 2, 2), "padding": (1, 1, 1)}


def make_plan(
    sites: int, mode: str = "subm", kernel_size: tuple[int, ...] = (3, 3, 3)
) -> SparseNeighbors:
    """A plan over ``sites`` random sites of one sample."""
    x, y, z = SHAPE
    cells = torch.randperm(x * y * z, generator=torch.Generator().manual_seed(3))[:sites].sort()[0]
    rows = torch.stack([cells * 0, cells // (y * z), cells // z % y, cells % z], 1).int()
    geometry = DOWN if mode == "strided" else {}
    return sparse_neighbors(rows, SHAPE, 1, kernel_size=kernel_size, mode=mode, **geometry)


def make_inputs(
    plan: SparseNeighbors, cin: int, cout: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Features, weight and bias."""
    generator = torch.Generator().manual_seed(4)
    shapes = (len(plan.in_coords), cin), (cout, *plan.kernel_size, cin), (cout,)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def run(plan: SparseNeighbors, *leaves: Tensor) -> list[Tensor]:
    """Output, then the gradients of the leaves."""
    out = sparse_conv(leaves[0], leaves[1], plan, leaves[2])
    seed = torch.sin(torch.arange(out.numel(), dtype=torch.float32)).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, leaves, seed.to(out.dtype))]


@pytest.fixture
def tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def close(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    scale = wanted.abs().amax().clamp(min=1)
    torch.testing.assert_close(got / scale, wanted / scale, **tolerances(dtype, "sparse_conv"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", ["subm", "strided"])
def test_many_tiles_equal_the_reference(
    mode: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(1150, mode)
    leaves = make_inputs(plan, 6, 18, dtype)
    ours = run(plan, *leaves)
    assert all(torch.equal(a, b) for a, b in zip(ours, run(plan, *leaves), strict=True))
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    for got, wanted in zip(ours, run(plan, *leaves), strict=True):
        close(got, wanted, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_of_many_taps(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """75 taps: more than the bits of a word."""
    plan = make_plan(200, kernel_size=(5, 5, 3))
    leaves = make_inputs(plan, 20, 12, dtype)
    ours = run(plan, *leaves)
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    for got, wanted in zip(ours, run(plan, *leaves), strict=True):
        close(got, wanted, dtype)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_newer_setting_of_a_precision_is_followed(precision: str, emulated: bool) -> None:
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has the older setting alone")
    plan, before = make_plan(20), matmul.fp32_precision
    features, weight, bias = make_inputs(plan, 8, 8)
    exact = sparse_conv(features.double(), weight.double(), plan, bias.double())
    try:
        matmul.fp32_precision = precision
        out = sparse_conv(features, weight, plan, bias)
    finally:
        matmul.fp32_precision = before
    rounds = emulated and precision == "tf32"
    assert ((out - exact).abs().max() > 1e-4) == rounds


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize(("cin", "cout"), [(5, 16), (24, 40), (64, 128)])
def test_tf32_rounds_the_factors_where_the_user_allows_it(
    cin: int, cout: int, emulated: bool
) -> None:
    if not emulated:
        pytest.skip("the CPU kernels multiply float32 exactly")

    def rounded(x: Tensor) -> Tensor:
        """Ten bits of mantissa, ties away from zero."""
        mantissa, exponent = x.detach().double().frexp()
        scaled = mantissa * 2**11
        return (scaled.sign() * (scaled.abs() + 0.5).floor()).ldexp(exponent - 11)

    plan = make_plan(300)
    features, weight, bias = make_inputs(plan, cin, cout)
    out, grad_features, grad_weight, _ = run(plan, features, weight, bias)
    wide = [rounded(t).requires_grad_() for t in (features, weight)]
    close(out.double(), sparse_conv(*wide, plan, bias.double()), torch.float32)
    exact = sparse_conv(features.double(), weight.double(), plan, bias.double())
    assert (out - exact).abs().max() > 1e-4  # rounded indeed
    seed = torch.sin(torch.arange(out.numel(), dtype=torch.float32)).view(out.shape)
    wanted = torch.autograd.grad(sparse_conv(*wide, plan), wide, rounded(seed))
    close(grad_features.double(), wanted[0], torch.float32)
    close(grad_weight.double(), wanted[1], torch.float32)
