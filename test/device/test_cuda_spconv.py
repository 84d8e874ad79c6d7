"""sparse_conv by an installed spconv: what can be seen of it without a GPU."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev import envs
from anybev.device import cuda_spconv
from anybev.device.ops._contract import CONTRACTS
from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import SparseNeighbors, sparse_neighbors
from anybev.testing.tolerances import tolerances

SHAPE = (9, 8, 7)
DOWN = {"stride": (2, 2, 2), "padding": (1, 1, 1), "mode": "strided"}
PLANS: dict[str, dict[str, Any]] = {
    "subm": {"kernel_size": (3, 3, 3), "mode": "subm"},
    "down": {"kernel_size": (3, 3, 3), **DOWN},
    "inverse": {"kernel_size": (3, 3, 3), **DOWN},
    "wide": {"kernel_size": (5, 3, 3), "mode": "subm"},
    "word": {"kernel_size": (4, 4, 2), **DOWN},
}


def plan_of(name: str) -> SparseNeighbors:
    occupied = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.2
    plan = sparse_neighbors(occupied.nonzero().int(), SHAPE, 2, **PLANS[name])
    return plan.inverse() if name == "inverse" else plan


def leaves_of(plan: SparseNeighbors, cin: int = 4, cout: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(plan.in_coords), cin, generator=generator)
    weight = torch.randn(cout, *plan.kernel_size, cin, generator=generator)
    return features.requires_grad_(), weight.requires_grad_()


@pytest.fixture
def spconv(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The installed spconv's operators on one thread: with two, its convolution races."""
    if importlib.util.find_spec("spconv") is None:
        pytest.skip("spconv is not installed: an optional vendor of kernels")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, on import
        yield cuda_spconv.operators()
    torch.set_num_threads(threads)


def selected(masked: cuda_spconv.Masked, rows: Tensor, weight: Tensor) -> Tensor:
    """sum over taps k whose bit is set of rows[pairs[k]] @ weight[k], weight (K, from, to)."""
    assert masked.order.dtype == masked.mask.dtype == masked.pairs.dtype == torch.int32
    assert torch.equal(masked.order.long().sort()[0], torch.arange(masked.pairs.shape[1]))
    out = rows.new_zeros(masked.pairs.shape[1], weight.shape[2])
    for tap, source in enumerate(masked.pairs.long()):
        there = (masked.mask[:, 0] >> tap & 1).bool()
        assert (source[there] >= 0).all()
        assert (source[~there] == -1).all()
        out[there] += rows[source[there]] @ weight[tap]
    return out


class PlainProducts:
    """The two functions of spconv that a GPU would run, with their arguments by position."""

    def implicit_gemm(
        self,
        features: Tensor,
        filters: Tensor,
        pair_fwd: Tensor,
        pair_mask_fwd_splits: list[Tensor],
        mask_argsort_fwd_splits: list[Tensor],
        num_activate_out: int,
        masks: list[Any],
        is_train: bool,
        is_subm: bool,
        *,
        fp32_accum: bool,
    ) -> tuple[Tensor, Tensor | None, int]:
        assert not is_subm
        assert masks[0].tolist() == [2**32 - 1]
        there = cuda_spconv.Masked(pair_fwd, pair_mask_fwd_splits[0], mask_argsort_fwd_splits[0])
        assert pair_fwd.shape[1] == num_activate_out
        turned = filters.flatten(1, 3).permute(1, 2, 0)
        return selected(there, features, turned), features.new_ones(1) if is_train else None, 64

    def implicit_gemm_backward(
        self,
        features: Tensor,
        filters: Tensor,
        out_bp: Tensor,
        pair_fwd: Tensor,
        pair_bwd: Tensor,
        pair_mask_fwd_splits: list[Tensor],
        pair_mask_bwd_splits: list[Tensor],
        mask_argsort_fwd_splits: list[Tensor],
        mask_argsort_bwd_splits: list[Tensor],
        mask_output_fwd: Tensor | None,
        masks: list[Any],
        mask_width: int,
        is_subm: bool,
        *,
        fp32_accum: bool,
    ) -> tuple[Tensor, Tensor]:
        assert mask_output_fwd is not None
        assert mask_width == 64
        back = cuda_spconv.Masked(pair_bwd, pair_mask_bwd_splits[0], mask_argsort_bwd_splits[0])
        taps = filters.flatten(1, 3)
        grad_filters = torch.zeros_like(taps)
        for tap, source in enumerate(pair_fwd.long()):
            there = (pair_mask_fwd_splits[0][:, 0] >> tap & 1).bool()
            grad_filters[:, tap] = out_bp[there].t() @ features[source[there]]
        grad_features = selected(back, out_bp, taps.permute(1, 0, 2))
        return grad_features, grad_filters.reshape(filters.shape)


def on_one_device(monkeypatch: pytest.MonkeyPatch, operators: Any) -> None:
    """The CPU's tensors pass for CUDA's, ``operators`` for an spconv that is built for it."""
    monkeypatch.setattr(cuda_spconv, "_DEVICE", "cpu")
    monkeypatch.setattr(cuda_spconv, "check_installed", lambda: None)
    monkeypatch.setattr(cuda_spconv, "operators", lambda: operators)


@pytest.mark.parametrize("name", ["subm", "down", "inverse", "word"])
def test_arguments_of_the_implicit_gemm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(name)
    features, weight = leaves_of(plan)
    bias = torch.randn(6)
    expected = sparse_conv(features, weight, plan, bias)
    seed = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, (features, weight), seed)
    on_one_device(monkeypatch, PlainProducts())
    monkeypatch.setenv("ANYBEV_SPARSE_CONV", "spconv")
    assert CONTRACTS["sparse_conv"].implementation("cuda") == "vendor"
    out = sparse_conv(features, weight, plan, bias)
    assert out.grad_fn is not None
    torch.testing.assert_close(out, expected, **tolerances(torch.float32, "sparse_conv"))
    for ours, theirs in zip(
        torch.autograd.grad(out, (features, weight), seed), wanted, strict=True
    ):
        torch.testing.assert_close(ours, theirs, **tolerances(torch.float32, "sparse_conv"))
    assert cuda_spconv.layout_of(plan) is cuda_spconv.layout_of(plan)


@pytest.mark.parametrize("name", ["subm", "down", "inverse", "wide"])
def test_gather_and_scatter_of_spconv_on_the_cpu(name: str, spconv: ModuleType) -> None:
    """Its forward; the backward fails on a CPU and has not run."""
    plan = plan_of(name)
    features, weight = (t.detach() for t in leaves_of(plan))
    out = cuda_spconv._GatherScatter.apply(features, weight, cuda_spconv.layout_of(plan))
    expected = sparse_conv(features, weight, plan)
    torch.testing.assert_close(out, expected, **tolerances(torch.float32, "sparse_conv"))


def test_functions_that_spconv_has(spconv: ModuleType) -> None:
    """Names of the arguments by position, as the adapter gives them."""
    for name, ours in vars(PlainProducts).items():
        if not name.startswith("_"):
            code = getattr(spconv, name).__code__
            given = ours.__code__.co_varnames[1 : ours.__code__.co_argcount]
            assert code.co_varnames[: len(given)] == given
            assert "fp32_accum" in code.co_varnames[: code.co_argcount]


def test_large_kernels_gather_and_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("wide")
    features, weight = (t.detach() for t in leaves_of(plan))
    seen = []

    def indice_conv(*arguments: Any) -> Tensor:
        seen.append(arguments)
        return features.new_zeros(arguments[4], 6)

    on_one_device(monkeypatch, SimpleNamespace(indice_conv=indice_conv))
    cuda_spconv.convolve(features, weight, plan, None)
    pairs, count = seen[0][2:4]
    assert pairs.shape == (2, 45, count.max())
    assert count.sum() == len(plan.forward_pairs.pair_source)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("down")
    features, weight = (t.detach() for t in leaves_of(plan))
    monkeypatch.setenv("ANYBEV_SPARSE_CONV", "spconv")
    with pytest.raises(ValueError, match="features must be on cuda, got cpu"):
        sparse_conv(features, weight, plan)
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    assert sparse_conv(features, weight, plan).isfinite().all()  # forced by name: not the vendor
    monkeypatch.delenv("ANYBEV_OPS")
    monkeypatch.setattr(cuda_spconv, "_DEVICE", "cpu")
    with pytest.raises(TypeError, match=r"must be float16 or float32, got torch\.float64"):
        sparse_conv(features.double(), weight.double(), plan)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "spconv", raising=False)
    with pytest.raises(envs.MachineError, match="spconv must be installed, got none"):
        sparse_conv(features, weight, plan)
    monkeypatch.setitem(sys.modules, "spconv", ModuleType("anybev.patches.spconv"))
    with pytest.raises(envs.MachineError, match=r"must be the installed one, got anybev\.patches"):
        sparse_conv(features, weight, plan)
    monkeypatch.delitem(sys.modules, "spconv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    constants = SimpleNamespace(CPU_ONLY_BUILD=True)
    monkeypatch.setattr(importlib, "import_module", {"spconv.cppconstants": constants}.get)
    with pytest.raises(envs.MachineError, match="must be built for CUDA, got its CPU build"):
        sparse_conv(features, weight, plan)
    monkeypatch.setenv("ANYBEV_SPARSE_CONV", "mine")
    with pytest.raises(ValueError, match="ANYBEV_SPARSE_CONV must be spconv or empty, got 'mine'"):
        sparse_conv(features, weight, plan)


def test_plans_without_pairs_need_no_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_SPARSE_CONV", "spconv")
    coords = torch.empty(0, 4, dtype=torch.int32)
    plan = sparse_neighbors(coords, SHAPE, 1, kernel_size=(3, 3, 3), mode="subm")
    assert sparse_conv(torch.empty(0, 4), torch.ones(6, 3, 3, 3, 4), plan).shape == (0, 6)
