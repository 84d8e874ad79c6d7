"""Both gradients of sparse_conv at once, and what plans carry for a vendor's kernel."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.ops import sparse_conv as operators
from anybev.device.ops._sparse_payload import INVERSE, STRIDED, SUBM, turned, vendor_tensors
from anybev.device.ops.sparse_neighbors import SparseNeighbors, sparse_neighbors
from anybev.testing.tolerances import tolerances

PLANS: dict[str, dict[str, Any]] = {
    "subm": {"kernel_size": (3, 3, 3)},
    "strided": {"kernel_size": (3, 2, 1), "stride": (2, 2, 1), "padding": (1, 0, 0)},
}


def plan_of(mode: str) -> SparseNeighbors:
    draw = Generator().manual_seed(0)
    coords = torch.rand(2, 5, 4, 3, generator=draw).lt(0.3).nonzero().int()
    return sparse_neighbors(coords, (5, 4, 3), 2, mode=mode, **PLANS[mode])


def tensors(plan: SparseNeighbors, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = Generator().manual_seed(1)
    shapes = (len(plan.out_coords), 6), (len(plan.in_coords), 5), (6, *plan.kernel_size, 5)
    grad, features, weight = (torch.randn(shape, generator=draw).to(dtype) for shape in shapes)
    return grad, features, weight


def lists(plan: SparseNeighbors) -> tuple[list[Tensor], list[Tensor]]:
    return plan.payload, [] if plan.is_symmetric else plan.inverse().payload


@pytest.mark.parametrize("mode", PLANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_gradients_are_the_separate_ones(mode: str, dtype: torch.dtype) -> None:
    plan = plan_of(mode)
    grad, features, weight = tensors(plan, dtype)
    both = torch.ops.anybev.sparse_conv_backward(grad, features, weight, *lists(plan))
    for only, got in enumerate(both):
        leaves = [features.clone(), weight.clone()]
        leaves[only].requires_grad_()
        out = operators.sparse_conv(*leaves, plan)
        (expected,) = torch.autograd.grad(out, leaves[only], grad)
        assert torch.equal(got, expected)


def test_gradients_of_a_layer_are_those_of_a_dense_sum() -> None:
    plan = plan_of("strided")
    grad, features, weight = tensors(plan, torch.float64)
    leaves = features.requires_grad_(), weight.requires_grad_()
    table = plan.table.long()
    gathered = torch.cat([leaves[0], leaves[0].new_zeros(1, 5)])[table]
    dense = torch.einsum("mkc,okc->mo", gathered, leaves[1].flatten(1, 3))
    expected = torch.autograd.grad(dense, leaves, grad)
    out = operators.sparse_conv(*leaves, plan)
    for got, wanted in zip(torch.autograd.grad(out, leaves, grad), expected, strict=True):
        torch.testing.assert_close(got, wanted, **tolerances(torch.float64))


@pytest.mark.parametrize("mode", PLANS)
def test_opcheck(mode: str) -> None:
    plan = plan_of(mode)
    arguments = (*tensors(plan, torch.float32), *lists(plan))
    torch.library.opcheck(torch.ops.anybev.sparse_conv_backward, arguments)
    geometry = [SUBM, 5, 4, 3, 5, 4, 3, 2, 3, 3, 3, 1, 1, 1, 1, 1, 1]
    payload = (plan.in_coords, len(plan.out_coords), geometry)
    torch.library.opcheck(torch.ops.anybev.sparse_conv_payload, payload)


def test_the_cpu_has_pair_lists_alone() -> None:
    plan = plan_of("strided")
    assert vendor_tensors(plan.in_coords, len(plan.out_coords), [STRIDED] * 17) == []
    pairs = plan.forward_pairs
    wanted = [pairs.pair_source, pairs.pair_row, pairs.tile_ptr]
    assert all(got is want for got, want in zip(plan.payload, wanted, strict=True))


def test_what_follows_the_pair_lists_is_not_read() -> None:
    plan = plan_of("strided")
    _, features, weight = tensors(plan, torch.float32)
    longer = [*plan.payload, torch.zeros(3)]
    arguments = features, weight, None, longer, [], len(plan.out_coords)
    out = torch.ops.anybev.sparse_conv_reference(*arguments)
    torch.testing.assert_close(
        out, operators.sparse_conv(features, weight, plan), **tolerances(torch.float32)
    )


def test_only_a_strided_plan_serves_backwards() -> None:
    header, table = torch.tensor([STRIDED, 5, 4, 3, 2]), torch.zeros(7)
    back = turned([header, table])
    assert back[0].tolist() == [INVERSE, 5, 4, 3, 2]
    assert back[1] is table
    assert header[0] == STRIDED
    assert turned([torch.tensor([SUBM, 5, 4, 3, 2]), table]) == turned([]) == []
