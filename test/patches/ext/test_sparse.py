"""mmcv._ext's sparse convolutions against loops and dense convolutions."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anybev.patches.ext import sparse
from anybev.patches.ext._table import SUPPLIED
from anybev.testing.tolerances import tolerances

SHAPES = {2: [7, 6], 3: [6, 5, 7], 4: [4, 3, 4, 3]}
BATCH = 2
# kernel, stride, padding, dilation, submanifold, transposed
GEOMETRIES: dict[str, tuple[int, int, int, int, int, int]] = {
    "subm": (3, 1, 1, 1, 1, 0),
    "subm_dilated": (3, 1, 1, 2, 1, 0),
    "subm_even": (2, 1, 0, 1, 1, 0),
    "down": (3, 2, 1, 1, 0, 0),
    "halving": (2, 2, 0, 1, 0, 0),
    "dilated": (2, 1, 1, 2, 0, 0),
    "transposed": (3, 2, 1, 1, 0, 1),
}


def cells(axes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    indices = (torch.rand(BATCH, *SHAPES[axes], generator=generator) < 0.3).nonzero().int()
    return indices[torch.randperm(len(indices), generator=generator)]


def out_size(axes: int, geometry: tuple[int, ...]) -> list[int]:
    kernel, stride, padding, dilation, subm, transposed = geometry
    if subm:
        return SHAPES[axes]
    if transposed:
        return [(n - 1) * stride - 2 * padding + kernel for n in SHAPES[axes]]
    return [(n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in SHAPES[axes]]


def ask(axes: int, geometry: tuple[int, ...], indices: Tensor, grid: bool = False) -> Any:
    """By keyword, with the names of mmcv's binding."""
    kernel, stride, padding, dilation, subm, transposed = geometry
    name = f"get_indice_pairs_{axes}d_{'backward' if grid else 'forward'}"
    size = out_size(axes, geometry)
    more = {"gridOut": torch.full((BATCH * math.prod(size),), -1)} if grid else {}
    return SUPPLIED[name].call(
        indices=indices,
        **more,
        batchSize=BATCH,
        outSpatialShape=size,
        spatialShape=SHAPES[axes],
        kernelSize=[kernel] * axes,
        stride=[stride] * axes,
        padding=[padding] * axes,
        dilation=[dilation] * axes,
        outPadding=[0] * axes,
        _subM=subm,
        _transpose=transposed,
    )


def looped(axes: int, geometry: tuple[int, ...], indices: Tensor) -> set[tuple[Any, ...]]:
    """(tap, input row, output cell) of every pair, one by one as mmcv's kernel walks them."""
    kernel, stride, padding, dilation, subm, transposed = geometry
    if subm:
        stride, padding = 1, kernel // 2
    size = out_size(axes, geometry)
    occupied = {tuple(row) for row in indices.tolist()}
    pairs = set()
    for row, (batch, *cell) in enumerate(indices.tolist()):
        for tap, offset in enumerate(itertools.product(range(kernel), repeat=axes)):
            out = []
            for c, k in zip(cell, offset, strict=True):
                if transposed:
                    out.append(c * stride - padding + k * dilation)
                elif (c + padding - k * dilation) % stride == 0:
                    out.append((c + padding - k * dilation) // stride)
                else:
                    out.append(-1)
            inside = all(0 <= o < n for o, n in zip(out, size, strict=True))
            if inside and (not subm or (batch, *out) in occupied):
                pairs.add((tap, row, (batch, *out)))
    return pairs


def listed(out: Tensor, pairs: Tensor, counts: Tensor) -> set[tuple[Any, ...]]:
    found = set()
    for tap, count in enumerate(counts.tolist()):
        assert (pairs[tap, :, count:] == -1).all()
        for source, row in pairs[tap, :, :count].t().tolist():
            found.add((tap, source, tuple(out[row].tolist())))
    assert len(found) == int(counts.sum())
    return found


@pytest.mark.parametrize("axes", [2, 3, 4])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_pairs_are_those_of_the_loop(axes: int, name: str) -> None:
    geometry, indices = GEOMETRIES[name], cells(axes)
    out, pairs, counts = ask(axes, geometry, indices)
    assert pairs.shape == (geometry[0] ** axes, 2, len(indices))
    assert out.dtype == pairs.dtype == counts.dtype == torch.int32
    assert listed(out, pairs, counts) == looped(axes, geometry, indices)
    if geometry[4]:
        assert out is indices
    else:
        assert out.tolist() == sorted(out.tolist())


@pytest.mark.parametrize("axes", [2, 3])
def test_a_grid_of_the_callers_changes_nothing(axes: int) -> None:
    indices = cells(axes)
    with_grid = ask(axes, GEOMETRIES["down"], indices, grid=True)
    for a, b in zip(with_grid, ask(axes, GEOMETRIES["down"], indices), strict=True):
        assert torch.equal(a, b)


def test_no_cell_at_all() -> None:
    out, pairs, counts = ask(3, GEOMETRIES["down"], cells(3)[:0])
    assert out.shape == (0, 4)
    assert pairs.shape == (27, 2, 0)
    assert not counts.any()
    features = sparse.indice_conv_forward(
        torch.zeros(0, 3), torch.zeros(3, 3, 3, 3, 4), pairs, counts, 0, 0, 0
    )
    assert features.shape == (0, 4)
    assert sparse.indice_maxpool_forward(torch.zeros(0, 3), pairs, counts, 0).shape == (0, 3)


def test_arguments_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match=r"get_indice_pairs_2d: indices must be \(N, 3\)"):
        ask(2, GEOMETRIES["down"], cells(3))
    call = SUPPLIED["get_indice_pairs_2d_forward"].call
    with pytest.raises(ValueError, match=r"outSpatialShape must be \(3, 2\)"):
        call(cells(2), 2, [9, 9], [7, 6], [3, 3], [2, 2], [0, 0], [1, 1], [0, 0], 0, 0)


def convolved(indices: Tensor, features: Tensor, filters: Tensor, name: str, out: Tensor) -> Tensor:
    """At the output's cells, of the dense convolution."""
    _, stride, padding, dilation, _, transposed = GEOMETRIES[name]
    grid = features.new_zeros(BATCH, *SHAPES[3], features.shape[1])
    grid = grid.index_put(tuple(indices.long().t()), features).movedim(-1, 1)
    if transposed:
        kernel = filters.permute(3, 4, 0, 1, 2)
        dense = functional.conv_transpose3d(grid, kernel, stride=stride, padding=padding)
    else:
        kernel = filters.permute(4, 3, 0, 1, 2)
        dense = functional.conv3d(grid, kernel, None, stride, padding, dilation)
    return dense.movedim(1, -1)[tuple(out.long().t())]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", ["subm", "down", "halving", "dilated", "transposed"])
def test_convolution_and_its_gradients(name: str, known: bool) -> None:
    """With the very tensor that get_indice_pairs gave, and with a copy of it."""
    geometry, indices = GEOMETRIES[name], cells(3)
    out, pairs, counts = ask(3, geometry, indices)
    pairs = pairs if known else pairs.clone()
    torch.manual_seed(0)
    features = torch.randn(len(indices), 3, dtype=torch.float64, requires_grad=True)
    shape = (geometry[0],) * 3
    filters = torch.randn(*shape, 3, 4, dtype=torch.float64, requires_grad=True)
    subm = geometry[4]
    with torch.no_grad():
        found = sparse.indice_conv_forward(features, filters, pairs, counts, len(out), 0, subm)
    wanted = convolved(indices, features, filters, name, out)
    torch.testing.assert_close(found, wanted, **tolerances(torch.float64))
    grad = torch.randn_like(found)
    grads = sparse.indice_conv_backward(features, filters, grad, pairs, counts, 0, subm)
    for a, b in zip(grads, torch.autograd.grad(wanted, [features, filters], grad), strict=True):
        torch.testing.assert_close(a, b, **tolerances(torch.float64))

    fused = sparse.fused_indice_conv_forward(
        features.detach(), filters.detach(), torch.arange(4.0), pairs, counts, len(out), 0, subm
    )
    torch.testing.assert_close(fused, found + torch.arange(4.0), **tolerances(torch.float64))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", ["down", "halving"])
def test_inverse_is_the_transpose(name: str, known: bool) -> None:
    """<inverse(y), x> == <y, conv(x)> with the weight's channels swapped, and its gradients."""
    geometry, indices = GEOMETRIES[name], cells(3)
    out, pairs, counts = ask(3, geometry, indices)
    pairs = pairs if known else pairs.clone()
    torch.manual_seed(0)
    y = torch.randn(len(out), 4, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(*(geometry[0],) * 3, 4, 3, dtype=torch.float64, requires_grad=True)
    back = sparse.indice_conv_forward(
        y.detach(), filters.detach(), pairs, counts, len(indices), 1, 0
    )
    x = torch.randn(len(indices), 3, dtype=torch.float64)
    forth = convolved(indices, x, filters.transpose(-1, -2), name, out)
    torch.testing.assert_close((back * x).sum(), (forth * y).sum(), **tolerances(torch.float64))
    grads = sparse.indice_conv_backward(y.detach(), filters.detach(), x, pairs, counts, 1, 0)
    wanted = torch.autograd.grad((forth * y).sum(), [y, filters])
    for a, b in zip(grads, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerances(torch.float64))


def test_half_precision_stays_half() -> None:
    indices = cells(3)
    out, pairs, counts = ask(3, GEOMETRIES["down"], indices)
    features = torch.randn(len(indices), 3)
    filters = torch.randn(3, 3, 3, 3, 4)
    wanted = sparse.indice_conv_forward(features, filters, pairs, counts, len(out), 0, 0)
    found = sparse.indice_conv_forward(
        features.half(), filters.half(), pairs, counts, len(out), 0, 0
    )
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, rtol=2e-2, atol=2e-2)
    grads = sparse.indice_conv_backward(features.half(), filters.half(), found, pairs, counts, 0, 0)
    assert [g.dtype for g in grads] == [torch.float16] * 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = sparse.indice_conv_forward(features, filters, pairs, counts, len(out), 0, 0)
    assert torch.equal(again, wanted)


def test_maximum_starts_from_zero_and_ties_share_nothing() -> None:
    indices = cells(3)
    out, pairs, counts = ask(3, GEOMETRIES["halving"], indices)
    features = torch.randint(-2, 3, (len(indices), 5)).double()
    found = sparse.indice_maxpool_forward(features, pairs, counts, len(out))
    wanted = torch.zeros(len(out), 5, dtype=torch.float64)
    pairs_of = [
        (source, row)
        for tap, count in enumerate(counts.tolist())
        for source, row in pairs[tap, :, :count].t().tolist()
    ]
    for source, row in pairs_of:
        wanted[row] = torch.maximum(wanted[row], features[source])
    assert torch.equal(found, wanted)
    grad = torch.randn_like(found)
    found_grad = sparse.indice_maxpool_backward(features, found, grad, pairs, counts)
    wanted_grad = torch.zeros_like(features)
    for source, row in pairs_of:
        wanted_grad[source] += grad[row] * (features[source] == found[row])
    torch.testing.assert_close(found_grad, wanted_grad)


def test_a_kernel_with_more_taps_than_its_pairs_uses_the_first() -> None:
    indices = cells(3)
    _, pairs, counts = ask(3, GEOMETRIES["subm_even"], indices)
    features, filters = torch.randn(len(indices), 3), torch.randn(3, 3, 3, 3, 4)
    first = filters.flatten(0, 2)[:8].reshape(2, 2, 2, 3, 4)
    wanted = sparse.indice_conv_forward(features, first, pairs, counts, len(indices), 0, 1)
    found = sparse.indice_conv_forward(features, filters, pairs, counts, len(indices), 0, 1)
    assert torch.equal(found, wanted)
    _, grad = sparse.indice_conv_backward(features, filters, wanted, pairs, counts, 0, 1)
    assert grad.shape == filters.shape
    assert not grad.flatten(0, 2)[8:].any()
    with pytest.raises(ValueError, match="filters must have the 8 taps of the pairs, got 4"):
        sparse.indice_conv_forward(features, filters[0, :2, :2], pairs, counts, len(indices), 0, 1)
