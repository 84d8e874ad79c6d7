"""Moving features of points by indices: against loops, and against autograd of plain indexing."""

import pytest
import torch
from torch import Tensor

from anybev.patches.ext import points as ext

FLOATS = [torch.float32, torch.float64, torch.float16]


def ints(*shape: int, high: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, shape, generator=generator, dtype=torch.int32)


def floats(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("b", "c", "n", "m"), [(2, 3, 7, 11), (1, 1, 1, 1), (2, 3, 7, 0)])
def test_gather_points(dtype: torch.dtype, b: int, c: int, n: int, m: int) -> None:
    features, idx = floats(b, c, n, dtype=dtype), ints(b, m, high=n)
    out = torch.zeros(b, c, m, dtype=dtype)
    ext.gather_points_forward(features, idx, out, b=b, c=c, n=n, npoints=m)
    expected = [[[features[i, j, idx[i, k]] for k in range(m)] for j in range(c)] for i in range(b)]
    assert torch.equal(out, torch.tensor(expected, dtype=dtype).reshape(b, c, m))


def test_gather_points_backward_adds_to_what_is_there() -> None:
    idx, grad_out = ints(2, 11, high=7), floats(2, 3, 11, dtype=torch.float64)
    grad = torch.ones(2, 3, 7, dtype=torch.float64)
    expected = grad.clone()
    for i in range(2):
        for k in range(11):
            expected[i, :, idx[i, k]] += grad_out[i, :, k]
    ext.gather_points_backward(grad_out, idx, grad, b=2, c=3, n=7, npoints=11)
    torch.testing.assert_close(grad, expected)


def test_gather_points_outside_is_an_error() -> None:
    out = torch.zeros(1, 1, 1)
    with pytest.raises((RuntimeError, IndexError)):
        ext.gather_points_forward(
            torch.zeros(1, 1, 2), torch.tensor([[2]], dtype=torch.int32), out, 1, 1, 2, 1
        )


def test_outputs_stay_out_of_the_graph() -> None:
    features = torch.ones(1, 2, 3, requires_grad=True)
    out = torch.zeros(1, 2, 1)
    ext.gather_points_forward(features, ints(1, 1, high=3), out, 1, 2, 3, 1)
    assert not out.requires_grad


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("b", "m", "k"), [(2, 5, 4), (1, 0, 4), (0, 5, 4)])
def test_group_points(dtype: torch.dtype, b: int, m: int, k: int) -> None:
    features, idx = floats(b, 3, 7, dtype=dtype), ints(b, m, k, high=7)
    out = torch.zeros(b, 3, m, k, dtype=dtype)
    ext.group_points_forward(features, idx, out, b=b, c=3, n=7, npoints=m, nsample=k)
    for i in range(b):
        assert torch.equal(out[i], features[i][:, idx[i].long()])


def test_group_points_backward() -> None:
    idx, grad_out = ints(2, 5, 4, high=7), floats(2, 3, 5, 4, dtype=torch.float64)
    grad, expected = torch.zeros(2, 3, 7).double(), torch.zeros(2, 3, 7).double()
    for i in range(2):
        for j in range(5):
            for k in range(4):
                expected[i, :, idx[i, j, k]] += grad_out[i, :, j, k]
    ext.group_points_backward(grad_out, idx, grad, b=2, c=3, n=7, npoints=5, nsample=4)
    torch.testing.assert_close(grad, expected)


ROWS = torch.tensor([4, 0, 6], dtype=torch.int32)
CENTRES = torch.tensor([2, 0, 3], dtype=torch.int32)
# Of the second sample nothing is asked; -1 and 6 lie outside of theirs.
STACKED = torch.tensor([[0, 3], [2, -1], [5, 0], [1, 1], [6, 4]], dtype=torch.int32)
SOURCES = [(0, 0, 0), (0, 1, 3), (1, 0, 2), (2, 0, 9), (2, 1, 4), (3, 0, 5), (3, 1, 5), (4, 1, 8)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("at_once", [1 << 22, 12])
def test_stack_group_points(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybev.patches.ext.points._ELEMENTS_AT_ONCE", at_once)
    features, out = floats(10, 3, dtype=dtype), torch.full((5, 3, 2), 9.0, dtype=dtype)
    expected = out.clone()
    for centre, sample, row in SOURCES:
        expected[centre, :, sample] = features[row]
    ext.stack_group_points_forward(features, ROWS, STACKED, CENTRES, out, b=3, c=3, m=5, nsample=2)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("at_once", [1 << 22, 12])
def test_stack_group_points_backward(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybev.patches.ext.points._ELEMENTS_AT_ONCE", at_once)
    grad_out, grad = floats(5, 3, 2, dtype=torch.float64), torch.ones(10, 3, dtype=torch.float64)
    expected = grad.clone()
    for centre, sample, row in SOURCES:
        expected[row] += grad_out[centre, :, sample]
    ext.stack_group_points_backward(
        grad_out, STACKED, CENTRES, ROWS, grad, b=3, c=3, m=5, n=10, nsample=2
    )
    torch.testing.assert_close(grad, expected)


def test_stack_group_points_of_nothing() -> None:
    none = torch.zeros(1, dtype=torch.int32)
    out, grad = torch.full((1, 3, 2), 9.0), torch.zeros(0, 3)
    one, idx = torch.ones(1, dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int32)
    ext.stack_group_points_forward(torch.zeros(0, 3), none, idx, one, out, 1, 3, 1, 2)
    assert (out == 9).all()
    ext.stack_group_points_backward(torch.ones(1, 3, 2), idx, one, none, grad, 1, 3, 1, 0, 2)
    ext.stack_group_points_forward(
        torch.zeros(4, 3), one * 4, idx[:0], none, out[:0], b=1, c=3, m=0, nsample=2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [5, 0])
def test_three_interpolate(dtype: torch.dtype, n: int) -> None:
    features, idx = floats(2, 4, 6, dtype=dtype), ints(2, n, 3, high=6)
    weight, out = floats(2, n, 3, dtype=dtype, seed=1), torch.full((2, 4, n), 7.0, dtype=dtype)
    ext.three_interpolate_forward(features, idx, weight, out, b=2, c=4, m=6, n=n)
    expected = torch.zeros(2, 4, n, dtype=dtype)
    for i in range(2):
        for j in range(n):
            w, k = weight[i, j], idx[i, j].long()
            f = features[i][:, k]
            expected[i, :, j] = w[0] * f[:, 0] + w[1] * f[:, 1] + w[2] * f[:, 2]
    assert torch.equal(out, expected)


def test_three_interpolate_backward() -> None:
    idx, weight = ints(2, 5, 3, high=6), floats(2, 5, 3, dtype=torch.float64)
    grad_out, grad = floats(2, 4, 5, dtype=torch.float64, seed=2), torch.ones(2, 4, 6).double()
    expected = grad.clone()
    for i in range(2):
        for j in range(5):
            for k in range(3):
                expected[i, :, idx[i, j, k]] += grad_out[i, :, j] * weight[i, j, k]
    ext.three_interpolate_backward(grad_out, idx, weight, grad, b=2, c=4, n=5, m=6)
    torch.testing.assert_close(grad, expected)
