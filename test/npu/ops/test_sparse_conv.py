"""sparse_conv on the simulated npu: through mx_driving's contract, as on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops.sparse_conv import sparse_conv, weight_gradient
from anybev.device.ops.sparse_neighbors import sparse_neighbors
from anybev.testing import simnpu
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same

SHAPE, BATCH = (6, 5, 4), 2
PLANS: dict[str, dict[str, Any]] = {
    "subm": {"kernel_size": (3, 3, 3), "mode": "subm"},
    "point": {"kernel_size": (1, 1, 1), "mode": "subm"},
    "strided": {"kernel_size": (3, 3, 3), "stride": (2, 2, 2), "padding": (1, 1, 0)},
    "flat": {"kernel_size": (1, 1, 3), "stride": (1, 1, 2)},
    "dilating": {"kernel_size": (2, 3, 1), "padding": (1, 0, 0)},
}
SUBM = ["npu_subm_sparse_conv3d_v3", "npu_subm_sparse_conv3d_grad_v2"]
STRIDED = ["npu_sparse_matmul", "npu_sparse_conv3d_grad"]
INVERSE = ["npu_sparse_inverse_conv3d", "npu_sparse_matmul", "npu_sparse_inverse_conv3d"]


def sites(draw: Generator, count: int = 60) -> Tensor:
    columns = [torch.randint(0, n, (count,), generator=draw) for n in (BATCH, *SHAPE)]
    unique = torch.unique(torch.stack(columns, 1), dim=0).int()
    return unique[torch.randperm(len(unique), generator=draw)]


def convolution(name: str, inverse: bool = False) -> Callable[..., Tensor]:
    setting = {"mode": "strided", **PLANS[name]}

    def convolve(
        features: Tensor, weight: Tensor, coords: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        plan = sparse_neighbors(coords, SHAPE, BATCH, **setting)
        return sparse_conv(features, weight, plan.inverse() if inverse else plan, bias)

    return convolve


def leaves(
    draw: Generator, name: str, cin: int, cout: int, inverse: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    coords, setting = sites(draw), {"mode": "strided", **PLANS[name]}
    rows = coords
    if inverse:
        rows = sparse_neighbors(coords, SHAPE, BATCH, **setting).out_coords
    features = torch.randn(len(rows), cin, generator=draw)
    weight = torch.randn(cout, *PLANS[name]["kernel_size"], cin, generator=draw) / 4
    return features, weight, coords, torch.randn(cout, generator=draw)


@pytest.mark.parametrize("name", PLANS)
def test_equals_the_cpu(mx: Binding, draw: Generator, name: str) -> None:
    features, weight, coords, bias = leaves(draw, name, 16, 32)
    wanted = [t.requires_grad_() for t in (features, weight)]
    assert_same(convolution(name), *wanted, coords, bias.requires_grad_())
    assert mx.calls[-2:] == (SUBM if PLANS[name].get("mode") == "subm" else STRIDED)


@pytest.mark.parametrize("name", ["strided", "flat", "dilating"])
def test_inverse_equals_the_cpu(mx: Binding, draw: Generator, name: str) -> None:
    features, weight, coords, bias = leaves(draw, name, 8, 24, inverse=True)
    wanted = [t.requires_grad_() for t in (features, weight)]
    assert_same(convolution(name, inverse=True), *wanted, coords, bias)
    assert mx.calls[-3:] == INVERSE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "inverse"), [("subm", 0), ("strided", 0), ("strided", 1)])
def test_half_precision_keeps_its_dtype(
    mx: Binding, draw: Generator, name: str, inverse: bool, dtype: torch.dtype
) -> None:
    features, weight, coords, bias = leaves(draw, name, 16, 16, bool(inverse))
    wanted = features.to(dtype).requires_grad_(), weight.requires_grad_()
    assert_same(convolution(name, bool(inverse)), *wanted, coords, bias)


def test_one_gradient_alone(mx: Binding, draw: Generator) -> None:
    for name, only in (("subm", 0), ("subm", 1), ("strided", 0), ("strided", 1)):
        tensors = list(leaves(draw, name, 16, 16)[:3])
        tensors[only].requires_grad_()
        assert_same(convolution(name), *tensors)
    features, _, coords, _ = leaves(draw, "subm", 16, 16)
    grad = torch.randn(len(coords), 8, generator=draw)

    def of_weight(features: Tensor, grad: Tensor, coords: Tensor) -> Tensor:
        return weight_gradient(
            features, grad, sparse_neighbors(coords, SHAPE, BATCH, **PLANS["subm"])
        )

    assert_same(of_weight, features, grad, coords)


def test_gradient_of_a_gradient(mx: Binding, draw: Generator) -> None:
    def penalty(features: Tensor, weight: Tensor, coords: Tensor) -> Tensor:
        out = convolution("strided")(features, weight, coords)
        (grad,) = torch.autograd.grad(out.square().sum(), features, create_graph=True)
        return grad

    features, weight, coords, _ = leaves(draw, "strided", 16, 16)
    assert_same(penalty, features.requires_grad_(), weight.requires_grad_(), coords)


def test_tables_are_made_once_a_plan(mx: Binding, draw: Generator) -> None:
    features, weight, coords, _ = (t.npu() for t in leaves(draw, "strided", 16, 16))
    plan = sparse_neighbors(coords, SHAPE, BATCH, mode="strided", **PLANS["strided"])
    assert mx.calls == []
    for _ in range(3):
        out = sparse_conv(features, weight, plan)
    sparse_conv(out, weight, plan.inverse())
    assert mx.calls.count("npu_sparse_conv3d") == 1


@pytest.mark.parametrize(
    ("cin", "cout", "inverse", "reason"),
    [
        (16, 12, False, "out channels must divide by 8, got 12"),
        (8, 1032, False, "out channels must be at most 1024, got 1032"),
        (12, 16, True, "in channels must divide by 8, got 12"),
        (16, 12, True, "out channels must divide by 8, got 12"),
    ],
)
def test_channels_that_the_kernel_does_not_take(
    mx: Binding, draw: Generator, cin: int, cout: int, inverse: bool, reason: str
) -> None:
    features, weight, coords, _ = leaves(draw, "flat", cin, cout, inverse)
    with pytest.warns(KernelFallbackWarning, match=f"^sparse_conv: .* {reason}$"):
        assert_same(convolution("flat", inverse), features, weight, coords)
    assert mx.calls[2:] == ["npu_sparse_matmul"]  # of the table alone


def test_gradients_want_channels_by_16(mx: Binding, draw: Generator) -> None:
    features, weight, coords, _ = leaves(draw, "strided", 8, 24)
    wanted = features.requires_grad_(), weight.requires_grad_()
    with pytest.warns(KernelFallbackWarning, match="gradient must divide by 16, got 8") as told:
        assert_same(convolution("strided"), *wanted, coords)
    assert len(told) == 1
    # The gradient of the features is an inverse convolution, which takes these channels.
    assert mx.calls[-2:] == ["npu_sparse_matmul", "npu_sparse_inverse_conv3d"]


def test_submanifold_convolutions_take_any_channels(mx: Binding, draw: Generator) -> None:
    features, weight, coords, _ = leaves(draw, "subm", 5, 7)
    assert_same(convolution("subm"), features.requires_grad_(), weight.requires_grad_(), coords)
    assert mx.calls[-2:] == SUBM


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"kernel_size": (3, 1, 1), "mode": "subm"}, r"subm plan must be 1 or 3 cubed"),
        ({"kernel_size": (5, 5, 5), "mode": "subm"}, r"got \[5, 5, 5\]"),
        ({"kernel_size": (4, 1, 1), "mode": "strided"}, r"at most 3, got \[4, 1, 1\]"),
    ],
)
def test_kernels_that_mx_driving_has_not(
    mx: Binding,
    draw: Generator,
    monkeypatch: pytest.MonkeyPatch,
    setting: dict[str, Any],
    reason: str,
) -> None:
    monkeypatch.setitem(PLANS, "odd", setting)
    features, weight, coords, _ = leaves(draw, "odd", 16, 16)
    with pytest.warns(KernelFallbackWarning, match=reason) as told:
        assert_same(convolution("odd"), features.requires_grad_(), weight, coords)
    assert len(told) == 1  # for the plan, not for every convolution over it
    assert mx.calls == []


def test_grids_beyond_30_bits(mx: Binding, draw: Generator) -> None:
    features, weight, coords, _ = leaves(draw, "flat", 8, 8)

    def convolve(features: Tensor, weight: Tensor, coords: Tensor) -> Tensor:
        plan = sparse_neighbors(coords, (4096, 4096, 128), BATCH, mode="strided", **PLANS["flat"])
        return sparse_conv(features, weight, plan)

    with pytest.warns(KernelFallbackWarning, match="cells of a batch must be at most 1073741824"):
        assert_same(convolve, features, weight, coords)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((730, 730, 740), "places of the map of cells must be at most 2147483647, got 2385"),
        ((23200, 23200, 2), "cells of a batch must be at most 1073741824, got 1076"),
    ],
)
def test_submanifold_maps_beyond_int32(
    mx: Binding, draw: Generator, shape: tuple[int, int, int], reason: str
) -> None:
    features, weight, coords, _ = leaves(draw, "subm", 8, 8)
    coords[:, 3] = coords[:, 3].clamp(max=1)
    unique, rows = torch.unique(coords, dim=0), torch.unique(coords, dim=0).shape[0]

    def convolve(features: Tensor, weight: Tensor, coords: Tensor) -> Tensor:
        plan = sparse_neighbors(coords, shape, 6 if shape[2] > 2 else 2, **PLANS["subm"])
        return sparse_conv(features, weight, plan)

    with pytest.warns(KernelFallbackWarning, match=reason):
        assert_same(convolve, features[:rows], weight, unique)
    assert mx.calls == []


def test_float64_and_no_site(mx: Binding, draw: Generator) -> None:
    features, weight, coords, _ = leaves(draw, "subm", 8, 8)
    with simnpu.allow_float64(), pytest.warns(KernelFallbackWarning, match="not be float64"):
        assert_same(convolution("subm"), features.double(), weight.double(), coords)
    calls = len(mx.calls)
    assert_same(convolution("strided"), features[:0], weight, coords[:0])
    assert len(mx.calls) == calls


def test_another_device_keeps_the_reference(
    mx: Binding, draw: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.npu, "get_device_name", lambda where=None: "Ascend310P3")
    features, weight, coords, _ = leaves(draw, "subm", 8, 8)
    with pytest.warns(KernelFallbackWarning, match="Ascend910 or Ascend950, got Ascend310P3"):
        assert_same(convolution("subm"), features, weight, coords)


def test_forced_references_read_the_same_plans(
    mx: Binding, draw: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [t.npu() for t in leaves(draw, "strided", 16, 16)[:3]]
    plan = sparse_neighbors(tensors[2], SHAPE, BATCH, mode="strided", **PLANS["strided"])
    vendors = sparse_conv(*tensors[:2], plan)
    calls = len(mx.calls)
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    torch.testing.assert_close(sparse_conv(*tensors[:2], plan), vendors, rtol=1e-5, atol=1e-5)
    plan = sparse_neighbors(tensors[2], SHAPE, BATCH, mode="strided", **PLANS["strided"])
    sparse_conv(*tensors[:2], plan)
    monkeypatch.delenv("ANYBEV_OPS")
    # A plan made under the reference has no tables: the reference goes on, without a warning.
    torch.testing.assert_close(sparse_conv(*tensors[:2], plan), vendors, rtol=1e-5, atol=1e-5)
    assert len(mx.calls) == calls


def test_the_second_device(mx: Binding, draw: Generator) -> None:
    features, weight, coords, bias = leaves(draw, "strided", 16, 16)
    wanted = features.requires_grad_(), weight.requires_grad_()
    assert_same(convolution("strided"), *wanted, coords, bias, device="npu:1")
    assert_same(convolution("subm"), *wanted, coords, device="npu:1")
