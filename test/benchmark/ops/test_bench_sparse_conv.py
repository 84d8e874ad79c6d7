"""Spconv's kernels on a device as a peer: whose values are compared, and when they are refused."""

import pytest
import torch

from anybev.benchmark.ops.bench_sparse_conv import Layer, SpconvOnDevice, value_difference
from anybev.device import cuda_spconv
from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import SparseNeighbors, sparse_neighbors


@pytest.fixture
def plan() -> SparseNeighbors:
    coords = torch.tensor([[0, 1, 1, 1], [0, 1, 2, 1], [0, 4, 3, 2], [0, 4, 3, 1]]).int()
    return sparse_neighbors(coords, (6, 6, 6), 1, kernel_size=(3, 3, 3), mode="subm")


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_peer_with_other_values_is_refused(
    plan: SparseNeighbors, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    layer = Layer.draw(plan, 5, 8)
    monkeypatch.setattr(
        cuda_spconv, "convolve", lambda x, w, plan, bias: factor * sparse_conv(x, w, plan, bias)
    )
    peer = SpconvOnDevice(layer)
    if factor == 1:
        assert value_difference(layer, peer) == 0
    else:
        with pytest.raises(RuntimeError, match="spconv must give our values"):
            value_difference(layer, peer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_in_halves_has_leaves(plan: SparseNeighbors, dtype: torch.dtype) -> None:
    half = Layer.draw(plan, 5, 8).to(dtype)
    features, weight = half.backward_run()()  # type: ignore[misc]
    assert (features.dtype, weight.dtype) == (dtype, dtype)
