"""Sparse convolution against dense convolution on small grids, and its contract."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anybev.device.ops.sparse_conv import sparse_conv, weight_gradient
from anybev.device.ops.sparse_neighbors import SparseNeighbors, sparse_neighbors
from anybev.testing.tolerances import tolerances

SHAPE = (9, 8, 7)
BATCH = 2

# Every geometry of the BEVFusion encoder, and some that it lacks.
GEOMETRIES = {
    "subm": {"kernel_size": (3, 3, 3), "mode": "subm"},
    "subm_flat": {"kernel_size": (3, 1, 1), "mode": "subm"},
    "down": {"kernel_size": (3, 3, 3), "stride": (2, 2, 2), "padding": (1, 1, 1)},
    "down_z0": {"kernel_size": (3, 3, 3), "stride": (2, 2, 2), "padding": (1, 1, 0)},
    "squeeze_z": {"kernel_size": (1, 1, 3), "stride": (1, 1, 2)},
    "dilating": {"kernel_size": (3, 3, 3), "padding": (1, 1, 1)},
    "halving": {"kernel_size": (2, 2, 2), "stride": (2, 2, 2)},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small problems: a second thread would mostly wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_coords(seed: int = 0, density: float = 0.15) -> Tensor:
    occupied = torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(seed)) < density
    return occupied.nonzero().int()


def plan_of(geometry: str, coords: Tensor | None = None) -> SparseNeighbors:
    """The plan of ``geometry`` on a random grid; ``inverse_<geometry>`` is its transposition."""
    name = geometry.removeprefix("inverse_")
    arguments = {"mode": "strided", **GEOMETRIES[name]}
    coords = random_coords() if coords is None else coords
    plan = sparse_neighbors(coords, SHAPE, BATCH, **arguments)
    return plan.inverse() if geometry != name else plan


def random_inputs(
    plan: SparseNeighbors, cin: int, cout: int, dtype: torch.dtype, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight and bias whose products round in every dtype."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.to(dtype).requires_grad_()

    features = leaf(len(plan.in_coords), cin)
    weight = leaf(cout, *plan.kernel_size, cin)
    return features, weight, leaf(cout)


def dense_conv(
    geometry: str, features: Tensor, weight: Tensor, bias: Tensor, plan: SparseNeighbors
) -> Tensor:
    """The same convolution on the dense grid, read at the output sites."""
    b, x, y, z = plan.in_coords.long().unbind(1)
    grid = features.new_zeros(BATCH, *plan.in_shape, features.shape[1])
    grid = grid.index_put((b, x, y, z), features).permute(0, 4, 1, 2, 3)
    arguments = GEOMETRIES[geometry.removeprefix("inverse_")]
    stride, padding = arguments.get("stride", (1, 1, 1)), arguments.get("padding", (0, 0, 0))
    if arguments.get("mode") == "subm":
        padding = tuple(k // 2 for k in plan.kernel_size)
    if geometry.startswith("inverse_"):
        axes = zip(plan.in_shape, plan.out_shape, plan.kernel_size, stride, padding, strict=True)
        extra = [o - ((i - 1) * s - 2 * p + k) for i, o, k, s, p in axes]
        out = functional.conv_transpose3d(
            grid, weight.permute(4, 0, 1, 2, 3), bias, stride, padding, extra
        )
    else:
        out = functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), bias, stride, padding)
    assert out.shape[2:] == tuple(plan.out_shape)
    b, x, y, z = plan.out_coords.long().unbind(1)
    return out.permute(0, 2, 3, 4, 1)[b, x, y, z]


def gradients(out: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    seed = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return (out.detach(), *torch.autograd.grad(out, leaves, seed))


INVERSES = [f"inverse_{name}" for name in ("down", "down_z0", "squeeze_z")]


@pytest.mark.parametrize("forced", ["", "sparse_conv=reference"])
@pytest.mark.parametrize("geometry", [*GEOMETRIES, *INVERSES])
def test_equals_dense_convolution(
    geometry: str, forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYBEV_OPS", forced)
    plan = plan_of(geometry)
    leaves = random_inputs(plan, 5, 7, torch.float64)
    ours = gradients(sparse_conv(*leaves[:2], plan, leaves[2]), leaves)
    dense = gradients(dense_conv(geometry, *leaves, plan), leaves)
    for got, wanted in zip(ours, dense, strict=True):
        torch.testing.assert_close(got, wanted, **tolerances(torch.float64, "sparse_conv"))


def test_reference_equals_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    plan = plan_of("down")
    features, weight, bias = (t.detach() for t in random_inputs(plan, 3, 2, torch.float64))
    expected = bias.repeat(len(plan.out_coords), 1)
    for row, neighbours in enumerate(plan.table.tolist()):
        for offset, source in enumerate(neighbours):
            if source >= 0:
                expected[row] += weight.flatten(1, 3)[:, offset] @ features[source]
    got = sparse_conv(features, weight, plan, bias)
    torch.testing.assert_close(got, expected, **tolerances(torch.float64, "sparse_conv"))


CHANNELS = [(5, 16), (16, 16), (16, 32), (32, 64), (64, 128), (1, 1), (7, 3), (33, 50), (40, 200)]


@pytest.mark.parametrize("geometry", ["subm", "down"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("cin", "cout"), CHANNELS)
def test_kernel_equals_reference(
    cin: int, cout: int, dtype: torch.dtype, geometry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(geometry)
    leaves = random_inputs(plan, cin, cout, dtype)
    ours = gradients(sparse_conv(*leaves[:2], plan, leaves[2]), leaves)
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    reference = gradients(sparse_conv(*leaves[:2], plan, leaves[2]), leaves)
    for got, wanted in zip(ours, reference, strict=True):
        assert got.dtype == dtype
        scale = wanted.abs().amax().clamp(min=1)
        torch.testing.assert_close(got / scale, wanted / scale, **tolerances(dtype, "sparse_conv"))


@pytest.mark.parametrize("geometry", ["subm", "down", "inverse_down"])
def test_gradcheck(geometry: str) -> None:
    coords = random_coords(density=0.02)
    plan = plan_of(geometry, coords)
    features, weight, bias = random_inputs(plan, 2, 3, torch.float64)

    def run(*leaves: Tensor) -> Tensor:
        return sparse_conv(*leaves[:2], plan, leaves[2])

    assert torch.autograd.gradcheck(run, (features, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (features, weight, bias), fast_mode=True)


@pytest.mark.parametrize("geometry", ["subm", "down", "inverse_down"])
def test_weight_gradient_is_the_one_that_backward_gives(geometry: str) -> None:
    plan = plan_of(geometry)
    features, weight, _ = random_inputs(plan, 5, 4, torch.float32)
    out = sparse_conv(features, weight, plan)
    grad = torch.randn_like(out)
    (wanted,) = torch.autograd.grad(out, weight, grad)
    found = weight_gradient(features, grad, plan)
    assert not found.requires_grad
    assert torch.equal(found, wanted)
