"""Score-weighted neighbours (PAConv) against loops and autograd."""

import pytest
import torch
from torch import Tensor

from anybev.patches.ext import points_score as ext

B, N0, N1, M, K, O = 2, 6, 5, 4, 3, 7  # noqa: E741
SIZES = {"B": B, "N0": N0, "N1": N1, "M": M, "K": K, "O": O, "aggregate": 0}


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    points, centers = (
        torch.randn(B, N0, M, O, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    scores = torch.randn(B, N1, K, M, generator=generator, dtype=torch.float64)
    idx = torch.randint(N0, (B, N1, K), generator=generator)
    idx[0, 1, 2], idx[1, 0, 1] = -1, N0  # out of the neighbourhood
    return points.to(dtype), centers.to(dtype), scores.to(dtype), idx


def loop(points: Tensor, centers: Tensor, scores: Tensor, idx: Tensor) -> Tensor:
    out = points.new_zeros(B, O, N1, K)
    parts = []
    for b in range(B):
        for n in range(N1):
            for k in range(K):
                if not 0 <= idx[b, n, k] < N0:
                    continue
                value = points.new_zeros(O)
                for m in range(M):
                    difference = points[b, idx[b, n, k], m] - centers[b, idx[b, n, 0], m]
                    value = value + scores[b, n, k, m] * difference
                parts.append(((b, n, k), value))
    for (b, n, k), value in parts:
        out = out.index_put(
            (torch.tensor(b), torch.arange(O), torch.tensor(n), torch.tensor(k)), value
        )
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aggregate", [0, 1, 2])
def test_forward_adds_to_the_output(dtype: torch.dtype, aggregate: int) -> None:
    output = torch.ones(B, O, N1, K, dtype=dtype)
    expected = 1 + loop(*inputs(dtype))
    ext.assign_score_withk_forward(*inputs(dtype), output, **{**SIZES, "aggregate": aggregate})
    torch.testing.assert_close(output, expected)


def test_backward_adds_to_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybev.patches.ext.points_score._ELEMENTS_AT_ONCE", 2 * K * M * O)
    points, centers, scores, idx = inputs()
    leaves = [t.clone().requires_grad_() for t in (points, centers, scores)]
    grad_out = torch.randn(B, O, N1, K, generator=torch.Generator().manual_seed(1)).double()
    loop(*leaves, idx).backward(grad_out)
    grads = [torch.ones_like(t) for t in (points, centers, scores)]
    ext.assign_score_withk_backward(grad_out, points, centers, scores, idx, *grads, **SIZES)
    for grad, leaf in zip(grads, leaves, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(grad, 1 + leaf.grad)


def test_autocast_changes_nothing() -> None:
    plain, under = (torch.zeros(B, O, N1, K) for _ in range(2))
    ext.assign_score_withk_forward(*inputs(torch.float32), plain, **SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        ext.assign_score_withk_forward(*inputs(torch.float32), under, **SIZES)
    assert torch.equal(plain, under)


def test_neighbours_may_be_int32() -> None:
    points, centers, scores, idx = inputs()
    output = torch.zeros(B, O, N1, K).double()
    ext.assign_score_withk_forward(points, centers, scores, idx.int(), output, **SIZES)
    torch.testing.assert_close(output, loop(points, centers, scores, idx))


def test_empty() -> None:
    sizes = {**SIZES, "N1": 0}
    points, centers, scores, idx = inputs()
    output = torch.zeros(B, O, 0, K).double()
    ext.assign_score_withk_forward(points, centers, scores[:, :0], idx[:, :0], output, **sizes)
    grads = [torch.zeros_like(t) for t in (points, centers, scores[:, :0])]
    ext.assign_score_withk_backward(
        output, points, centers, scores[:, :0], idx[:, :0], *grads, **sizes
    )
    assert not any(grad.any() for grad in grads)
