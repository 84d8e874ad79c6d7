"""Pools of the supplied spconv against dense ones."""

import pytest
import torch
from torch.nn import functional

from anybev.patches.spconv import pytorch as spconv

SHAPES = {1: [21], 2: [9, 8], 3: [7, 8, 6]}


def sparse_input(axes: int, dtype: torch.dtype = torch.float64) -> spconv.SparseConvTensor:
    """Positive features: see ``test_a_maximum_starts_from_zero``."""
    generator = torch.Generator().manual_seed(axes)
    indices = (torch.rand(2, *SHAPES[axes], generator=generator) < 0.4).nonzero().int()
    indices = indices[torch.randperm(len(indices), generator=generator)]
    features = torch.rand(len(indices), 4, generator=generator, dtype=torch.float64).to(dtype) + 1
    return spconv.SparseConvTensor(features.requires_grad_(), indices, SHAPES[axes], 2)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "window", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}]
)
def test_maximum_and_its_gradient(axes: int, window: dict[str, int]) -> None:
    x = sparse_input(axes)
    out = getattr(spconv, f"SparseMaxPool{axes}d")(**window)(x)
    cotangent = torch.randn_like(out.features)
    (found,) = torch.autograd.grad(out.features, x.features, cotangent)

    grid = getattr(functional, f"max_pool{axes}d")(x.dense(), **window)
    assert out.spatial_shape == list(grid.shape[2:])
    assert torch.equal(out.dense(), grid)
    wanted = grid.movedim(1, -1)[tuple(out.indices.long().t())]
    (grad,) = torch.autograd.grad(wanted, x.features, cotangent)
    torch.testing.assert_close(found, grad)


def test_a_maximum_starts_from_zero() -> None:
    x = sparse_input(3)
    out = spconv.SparseMaxPool3d(2)(x.replace_feature(-x.features))
    assert not out.features.any()


def test_every_feature_that_is_the_maximum_gets_its_gradient() -> None:
    indices = torch.tensor([[0, 0], [0, 1], [0, 2]]).int()
    features = torch.tensor([[5.0], [5.0], [1.0]], requires_grad=True)
    out = spconv.SparseMaxPool1d(3)(spconv.SparseConvTensor(features, indices, [3], 1))
    out.features.backward(torch.tensor([[2.0]]))
    assert features.grad.flatten().tolist() == [2.0, 2.0, 0.0]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_mean_over_the_cells_that_are_there(axes: int) -> None:
    x = sparse_input(axes)
    out = getattr(spconv, f"SparseAvgPool{axes}d")(3, 2, 1)(x)
    pool = getattr(functional, f"avg_pool{axes}d")
    occupied = x.replace_feature(torch.ones_like(x.features)).dense()
    sums = pool(x.dense(), 3, 2, 1) / pool(occupied, 3, 2, 1).clamp(min=1e-9)
    torch.testing.assert_close(out.dense(), sums)
    out.features.sum().backward()
    assert x.features.grad.isfinite().all()


def test_global_pools() -> None:
    x = sparse_input(3)
    samples = [x.features[x.indices[:, 0] == b] for b in range(2)]
    x.batch_size = 3
    largest, mean = spconv.SparseGlobalMaxPool()(x), spconv.SparseGlobalAvgPool()(x)
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(largest, torch.stack([*(s.amax(0) for s in samples), zero]))
    torch.testing.assert_close(mean, torch.stack([*(s.mean(0) for s in samples), zero]))


def test_a_pool_can_be_inverted_but_its_key_is_its_own() -> None:
    x = sparse_input(3, torch.float32)
    pool = spconv.SparseMaxPool3d(2, 2, indice_key="pool")
    out = pool(x)
    up = spconv.SparseInverseConv3d(4, 3, 2, "pool")(out)
    assert up.indices is x.indices
    with pytest.raises(ValueError, match="indice_key must be new, got 'pool'"):
        pool(out)


def test_no_cell_at_all() -> None:
    x = sparse_input(3).select_by_index(torch.zeros(0, dtype=torch.long))
    assert spconv.SparseMaxPool3d(2)(x).features.shape == (0, 4)
    assert spconv.SparseAvgPool3d(2)(x).features.shape == (0, 4)
