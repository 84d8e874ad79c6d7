"""Scatter of points against a loop over points."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anybev.device.ops import _native
from anybev.device.ops.scatter_points import _SCATTER, REDUCES, scatter_points
from anybev.testing.tolerances import tolerances

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Three columns that spread so far leave no room for a row's number in a word of 64 bits.
WIDE = 1 << 20


def points(
    count: int,
    channels: int = 6,
    columns: int = 3,
    *,
    seed: int = 0,
    spread: int = 4,
    dtype: torch.dtype = torch.float32,
    coords_dtype: torch.dtype = torch.int32,
) -> tuple[Tensor, Tensor]:
    """Features and coordinates; some rows have a negative number, some features are equal."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, channels, generator=generator).mul(4).round().to(dtype)
    features += torch.randn(count, 1, generator=generator).sign().to(dtype) / 8
    coords = torch.randint(0, spread, (count, columns), generator=generator)
    coords[::5, -1] = -1
    return features, coords.to(coords_dtype)


def loop(features: Tensor, coords: Tensor, reduce: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One point after the other, in float64."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(coords.tolist()):
        if min(row) >= 0:
            rows.setdefault(tuple(row), []).append(i)
    voxels = sorted(rows)
    point2voxel = torch.full((len(coords),), -1, dtype=torch.int32)
    out = torch.zeros(len(voxels), features.shape[1], dtype=torch.float64)
    for v, voxel in enumerate(voxels):
        point2voxel[rows[voxel]] = v
        values = features[rows[voxel]].double()
        out[v] = {"sum": values.sum(0), "mean": values.mean(0), "max": values.amax(0)}[reduce]
    counts = torch.tensor([len(rows[voxel]) for voxel in voxels], dtype=torch.int32)
    out_coords = torch.tensor(voxels, dtype=coords.dtype).reshape(-1, coords.shape[1])
    return out, out_coords, point2voxel, counts


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("count", [0, 1, 2, 300])
@pytest.mark.parametrize("columns", [1, 3, 4])
@pytest.mark.parametrize("coords_dtype", [torch.int32, torch.int64], ids=str)
def test_equals_the_loop(
    implementation: str, reduce: str, count: int, columns: int, coords_dtype: torch.dtype
) -> None:
    features, coords = points(count, columns=columns, coords_dtype=coords_dtype)
    actual, expected = scatter_points(features, coords, reduce), loop(features, coords, reduce)
    assert actual[0].dtype == torch.float32
    torch.testing.assert_close(actual[0], expected[0].float(), **tolerances(torch.float32))
    for one, other in zip(actual[1:], expected[1:], strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("columns", [3, 4])
@pytest.mark.parametrize("spread", [WIDE, 1 << 15])
def test_wide_coordinates(implementation: str, columns: int, spread: int) -> None:
    features, coords = points(500, columns=columns, spread=4, coords_dtype=torch.int64)
    spread = min(spread, 1 << (62 // columns))
    coords = torch.where(coords > 0, coords * (spread // 3 - 1), coords)
    actual, expected = scatter_points(features, coords, "sum"), loop(features, coords, "sum")
    torch.testing.assert_close(actual[0], expected[0].float(), **tolerances(torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(actual[1:], expected[1:], strict=True))


def test_high_coordinates_that_span_little(implementation: str) -> None:
    features, coords = points(50, coords_dtype=torch.int64)
    far = torch.where((coords >= 0).all(1, keepdim=True), coords + (1 << 40), coords)
    actual, expected = scatter_points(features, far, "sum"), scatter_points(features, coords, "sum")
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1] + (1 << 40))


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_implementations_agree_to_the_last_bit(
    emulated: bool, reduce: str, dtype: torch.dtype
) -> None:
    count, spread = (4_000, 8) if emulated else (60_000, 24)
    features, coords = points(count, 13, spread=spread, dtype=dtype)
    features = torch.randn_like(features)
    native = torch.ops.anybev.scatter_points(features, coords, reduce)
    reference = torch.ops.anybev.scatter_points_reference(features, coords, reduce)
    assert all(torch.equal(one, other) for one, other in zip(native, reference, strict=True))
    values = (features, native[0]) if reduce == "max" else (None, None)
    back = (torch.randn_like(native[0]), native[2], native[3], *values, reduce)
    native_grad = torch.ops.anybev.scatter_points_backward(*back)
    assert torch.equal(native_grad, torch.ops.anybev.scatter_points_backward_reference(*back))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_summed_in_float32(implementation: str, dtype: torch.dtype) -> None:
    features = torch.ones(5000, 1, dtype=dtype)  # 4096 + 1 is 4096 in both halves
    reduced, *_ = scatter_points(features, torch.zeros(5000, 3, dtype=torch.int32), "sum")
    assert reduced.dtype == torch.float32
    assert reduced.item() == 5000


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradient(implementation: str, reduce: str, dtype: torch.dtype) -> None:
    features, coords = points(200, 5, dtype=dtype)
    reduced, _, point2voxel, counts = scatter_points(features.requires_grad_(), coords, reduce)
    grad = torch.randn(reduced.shape)
    grad[0] = torch.tensor([math.inf, -math.inf, math.nan, 1e-30, 3e38])
    reduced.backward(grad)
    expected = torch.zeros(features.shape)
    given = torch.zeros(reduced.shape, dtype=torch.bool)
    for i, v in enumerate(point2voxel.tolist()):
        if v < 0:
            continue
        if reduce == "max":  # the first point that holds the maximum has it all
            first = (features[i].float() == reduced[v]) & ~given[v]
            given[v] |= first
            expected[i][first] = grad[v][first]
        else:
            expected[i] = grad[v] / (counts[v] if reduce == "mean" else 1)
    assert features.grad is not None
    assert features.grad.dtype == dtype
    assert torch.equal(features.grad.nan_to_num(7), expected.to(dtype).nan_to_num(7))


@pytest.mark.parametrize("reduce", REDUCES)
def test_gradcheck_twice(implementation: str, reduce: str) -> None:
    features, coords = points(20, 3, spread=2, dtype=torch.float64)
    features += torch.rand_like(features)  # a maximum that two points hold has no derivative
    scatter = lambda x: scatter_points(x, coords, reduce)[0]  # noqa: E731
    assert torch.autograd.gradcheck(scatter, features.requires_grad_())
    assert torch.autograd.gradgradcheck(scatter, features)


def test_only_the_features_carry_a_gradient(implementation: str) -> None:
    features, coords = points(20)
    outputs = scatter_points(features.requires_grad_(), coords, "max")
    assert [output.requires_grad for output in outputs] == [True, False, False, False]


@pytest.mark.parametrize("reduce", REDUCES)
def test_points_without_a_voxel(implementation: str, reduce: str) -> None:
    features = torch.full((4, 2), math.nan, requires_grad=True)
    coords = torch.tensor([[-1, 0, 0], [0, -3, 0], [0, 0, -1], [-1, -1, -1]])
    reduced, out_coords, point2voxel, counts = scatter_points(features, coords, reduce)
    assert (reduced.shape, out_coords.shape, counts.shape) == ((0, 2), (0, 3), (0,))
    assert point2voxel.tolist() == [-1] * 4
    (grad,) = torch.autograd.grad(reduced.sum(), features, create_graph=True)
    assert torch.equal(grad, torch.zeros(4, 2))


@pytest.mark.parametrize("reduce", REDUCES)
def test_not_finite_features_stay_in_their_voxel(implementation: str, reduce: str) -> None:
    features = torch.tensor([[1.0], [math.nan], [2.0], [-math.inf], [3.0], [math.nan]])
    coords = torch.tensor([[0], [1], [0], [2], [1], [1]])
    reduced, *_ = scatter_points(features.requires_grad_(), coords, reduce)
    assert reduced.isnan().flatten().tolist() == [False, True, False]
    assert reduced[2] == -math.inf
    reduced.sum().backward()
    assert features.grad is not None
    if reduce == "max":  # NaN is the maximum, and its first point has the gradient
        assert features.grad.flatten().tolist() == [0, 1, 1, 1, 0, 0]


def test_no_channels(implementation: str) -> None:
    reduced, out_coords, _, counts = scatter_points(
        torch.zeros(3, 0), torch.ones(3, 3).int(), "max"
    )
    assert (reduced.shape, out_coords.tolist(), counts.tolist()) == ((1, 0), [[1, 1, 1]], [3])


def test_non_contiguous(implementation: str) -> None:
    features, coords = points(60)
    strided = features.t().contiguous().t(), coords.t().contiguous().t()
    assert not strided[0].is_contiguous()
    expected = scatter_points(features, coords, "max")
    actual = scatter_points(*strided, "max")
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("reduce", REDUCES)
def test_threads_do_not_change_a_bit(
    set_threads: Callable[[int], None], emulated: bool, reduce: str
) -> None:
    if emulated:
        pytest.skip("emulated CUDA kernels run on one thread")
    features, coords = points(70_000, spread=30)
    results, grads = [], []
    for threads in (1, 2, 4):
        set_threads(threads)
        leaf = features.clone().requires_grad_()
        results.append(scatter_points(leaf, coords, reduce))
        results[-1][0].square().sum().backward()
        grads.append(leaf.grad)
    for other in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(results[0], results[other], strict=True))
        assert torch.equal(grads[0], grads[other])  # type: ignore[arg-type]


def test_autocast_changes_nothing(implementation: str) -> None:
    features, coords = points(50)
    expected = scatter_points(features, coords, "mean")[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scatter_points(features, coords, "mean")[0], expected)


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "scatter_points=reference")
    assert _SCATTER.overload() is torch.ops.anybev.scatter_points_reference.default


@pytest.mark.parametrize("suffix", ["", "_reference"])
@pytest.mark.parametrize("reduce", REDUCES)
def test_opcheck(suffix: str, reduce: str) -> None:
    features, coords = points(30)
    operator = getattr(torch.ops.anybev, f"scatter_points{suffix}").default
    torch.library.opcheck(operator, (features.requires_grad_(), coords, reduce))
    reduced, _, point2voxel, counts = operator(features.detach(), coords, reduce)
    values = (features.detach(), reduced) if reduce == "max" else (None, None)
    grad = torch.randn(reduced.shape, requires_grad=True)
    operator = getattr(torch.ops.anybev, f"scatter_points_backward{suffix}").default
    torch.library.opcheck(operator, (grad, point2voxel, counts, *values, reduce))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4, 3, dtype=torch.int32)}, "features must be float32 or"),
        ({"coords": torch.zeros(4, 3)}, "coords must be int32 or int64, got float32"),
        ({"coords": [[0, 0, 0]]}, "coords must be a tensor, got list"),
    ],
)
def test_refuses_dtypes(change: dict, message: str) -> None:
    arguments = {**dict(zip(("features", "coords"), points(4), strict=True)), **change}
    with pytest.raises(TypeError, match=message):
        scatter_points(**arguments, reduce="max")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4)}, r"features must be \(P, C\), got \(4,\)"),
        ({"coords": torch.zeros(4).int()}, r"coords must be \(4, >=1\) as .*, got \(4,\)"),
        ({"coords": torch.zeros(4, 0).int()}, r"coords must be \(4, >=1\) as .*, got \(4, 0\)"),
        ({"coords": torch.zeros(5, 3).int()}, r"coords must be \(4, >=1\) as .*, got \(5, 3\)"),
        ({"coords": torch.zeros(4, 3).int().to("meta")}, "coords must be on cpu, got meta"),
        ({"reduce": "min"}, "reduce must be one of sum, mean, max, got 'min'"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    features, coords = points(4)
    with pytest.raises(ValueError, match=message):
        scatter_points(**{"features": features, "coords": coords, "reduce": "max", **change})


def test_refuses_coordinates_that_span_too_much(implementation: str) -> None:
    most = torch.iinfo(torch.int64).max
    for far in ([most, 0, 0], [1 << 21, 1 << 21, 1 << 20]):
        coords = torch.tensor([[0, 0, 0], far])
        with pytest.raises(ValueError, match=r"must span at most 2\^62 cells, got \[0, 0, 0\] to"):
            scatter_points(torch.zeros(2, 1), coords, "sum")
    # A row that has no voxel does not count.
    coords = torch.tensor([[0, 0, 0], [most, 0, -1]])
    assert scatter_points(torch.zeros(2, 1), coords, "sum")[1].tolist() == [[0, 0, 0]]


@pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.zeros(4)}, ValueError, r"must be \(P, C\) and \(P, D\), got \[4\]"),
        ({"coords": torch.zeros(3, 3).int()}, ValueError, r"got \[4, 6\] and \[3, 3\]"),
        ({"coords": torch.zeros(4, 3)}, TypeError, "must be floating and int32 or int64, got"),
        ({"reduce": "min"}, ValueError, "reduce must be sum, mean or max, got min"),
    ],
)
def test_the_kernel_trusts_no_argument(change: dict, error: type, message: str) -> None:
    features, coords = points(4)
    with pytest.raises(error, match=message):
        torch.ops.anybev.scatter_points(
            **{"features": features, "coords": coords, "reduce": "max", **change}
        )


@pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))
@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grad": torch.zeros(2)}, ValueError, r"must be \(V, C\), \(P,\) and \(V,\), got \[2\]"),
        ({"counts": torch.zeros(3).int()}, ValueError, r"\(V,\), got \[2, 1\], \[4\] and \[3\]"),
        ({"counts": torch.zeros(2)}, TypeError, "must be floating, int32 and int32, got"),
    ],
)
def test_the_backward_kernel_trusts_no_argument(
    reduce: str, change: dict, error: type, message: str
) -> None:
    arguments = {
        "grad": torch.zeros(2, 1),
        "point2voxel": torch.tensor([0, 1, 1, -1], dtype=torch.int32),
        "counts": torch.tensor([1, 2], dtype=torch.int32),
        "features": torch.zeros(4, 1),
        "reduced": torch.zeros(2, 1),
    }
    with pytest.raises(error, match=message):
        torch.ops.anybev.scatter_points_backward(**{**arguments, **change}, reduce=reduce)


@pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))
@pytest.mark.parametrize("reduce", REDUCES)
def test_the_backward_kernel_sees_a_voxel_that_is_not_there(emulated: bool, reduce: str) -> None:
    voxel, counts = torch.tensor([0, 1, 2, -1]).int(), torch.tensor([1, 2]).int()
    operands = (torch.zeros(2, 1), voxel, counts, torch.zeros(4, 1), torch.zeros(2, 1), reduce)
    if emulated:  # CUDA kernels do not wait for what they find
        grad = torch.ops.anybev.scatter_points_backward(*operands)
        assert grad.isnan().flatten().tolist() == [False, False, True, False]
        return
    with pytest.raises(ValueError, match="point2voxel must be below 2"):
        torch.ops.anybev.scatter_points_backward(*operands)


@pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))
@pytest.mark.parametrize("missing", ["features", "reduced"])
def test_the_gradient_of_a_maximum_wants_what_was_compared(missing: str) -> None:
    voxel, counts = torch.zeros(4, dtype=torch.int32), torch.full((1,), 4, dtype=torch.int32)
    values = {"features": torch.zeros(4, 1), "reduced": torch.zeros(1, 1), missing: None}
    with pytest.raises(ValueError, match=r"features and reduced must be \(P, C\) and \(V, C\)"):
        torch.ops.anybev.scatter_points_backward(
            torch.zeros(1, 1), voxel, counts, **values, reduce="max"
        )
