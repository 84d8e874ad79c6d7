"""Sparse convolution: registrations, determinism, instruction sets, odd inputs, errors."""

import gc
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import PairLists, SparseNeighbors, sparse_neighbors
from anybev.testing.tolerances import tolerances

SHAPE = (12, 11, 9)


def make_plan(sites: int, mode: str = "subm", seed: int = 0) -> SparseNeighbors:
    """A plan over ``sites`` random sites of one sample."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(SHAPE[0] * SHAPE[1] * SHAPE[2], generator=generator)[:sites].sort()[0]
    z, y = cells % SHAPE[2], cells // SHAPE[2] % SHAPE[1]
    x = cells // SHAPE[2] // SHAPE[1]
    coords = torch.stack([torch.zeros_like(x), x, y, z], 1).int()
    down = {"stride": (2, 2, 2), "padding": (1, 1, 1)} if mode == "strided" else {}
    return sparse_neighbors(coords, SHAPE, 1, kernel_size=(3, 3, 3), mode=mode, **down)


def make_inputs(
    plan: SparseNeighbors, cin: int, cout: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (len(plan.in_coords), cin), (cout, *plan.kernel_size, cin), (cout,)
    drawn = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    return drawn[0], drawn[1], drawn[2]


def payload(pairs: PairLists) -> list[Tensor]:
    return [pairs.pair_source, pairs.pair_row, pairs.tile_ptr]


def run(plan: SparseNeighbors, *leaves: Tensor) -> list[Tensor]:
    """Output, then the gradients of the leaves."""
    out = sparse_conv(*leaves[:2], plan, *leaves[2:])
    seed = torch.sin(torch.arange(out.numel(), dtype=torch.float32)).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, leaves, seed.to(out.dtype))]


@pytest.mark.parametrize("mode", ["subm", "strided"])
def test_a_plan_is_freed_with_its_last_user(mode: str) -> None:
    plan = make_plan(30, mode)
    run(plan, *make_inputs(plan, 3, 5))
    lists = weakref.ref(plan.forward_pairs.pair_source)
    gc.disable()  # a cycle would hold device memory until the collector runs
    try:
        del plan
        assert lists() is None
    finally:
        gc.enable()


def test_payloads_backwards_are_those_of_the_inverse_plan() -> None:
    plan = make_plan(30, "strided")
    back = plan.inverse()
    for one, other in ((plan, back), (back, plan)):
        pairs = zip(one.transposed_payload, other.payload, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["sparse_conv", "sparse_conv_reference"])
@pytest.mark.parametrize("mode", ["subm", "strided"])
def test_opcheck(name: str, mode: str) -> None:
    plan = make_plan(60, mode)
    leaves = make_inputs(plan, 3, 4)
    rows = len(plan.out_coords)
    gather = payload(plan.forward_pairs)
    scatter = [] if plan.is_symmetric else payload(plan.transposed_pairs)
    arguments = (*leaves, gather, scatter, rows)
    torch.library.opcheck(getattr(torch.ops.anybev, name).default, arguments)
    grad = torch.randn(rows, 4, requires_grad=True)
    operator = name.replace("sparse_conv", "sparse_conv_grad_weight")
    arguments = (leaves[0], grad, gather, scatter, 27)
    torch.library.opcheck(getattr(torch.ops.anybev, operator).default, arguments)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", ["subm", "strided"])
def test_threads_change_no_bit(mode: str, dtype: torch.dtype, emulated: bool) -> None:
    if emulated:
        pytest.skip("an emulated kernel runs on one thread")
    plan = make_plan(1100, mode)
    leaves = make_inputs(plan, 24, 40, dtype)
    torch.set_num_threads(1)
    alone = run(plan, *leaves)
    torch.set_num_threads(2)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(alone, run(plan, *leaves), strict=True))


_PROBE = """
import torch
from test_sparse_conv_contract import make_inputs, make_plan, run
from anybev.device.ops import sparse_conv
results = []
for cin, cout in ((5, 16), (33, 70)):
    for dtype in (torch.float32, torch.bfloat16):
        plan = make_plan(700, "strided")
        results += run(plan, *make_inputs(plan, cin, cout, dtype))
torch.save(results, {path!r})
"""


def probe(path: str, capability: str, forced: str = "") -> list[Tensor]:
    """Results of a process whose kernels are limited to one instruction set."""
    here = os.path.dirname(os.path.abspath(__file__))
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": capability,
        "ANYBEV_OPS": forced,
        "PYTHONPATH": here,
        "OMP_NUM_THREADS": "1",
    }
    code = _PROBE.format(path=path)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    return list(torch.load(path, weights_only=True))


def test_every_instruction_set_equals_reference(tmp_path: Path, emulated: bool) -> None:
    if emulated:
        pytest.skip("instruction sets are the CPU kernels' own")
    reference = probe(str(tmp_path / "r.pt"), "default", "sparse_conv=reference")
    for capability in ("default", "avx2"):
        got = probe(str(tmp_path / f"{capability}.pt"), capability)
        for ours, wanted in zip(got, reference, strict=True):
            scale = wanted.abs().amax().clamp(min=1)
            torch.testing.assert_close(
                ours / scale, wanted / scale, **tolerances(wanted.dtype, "sparse_conv")
            )


@pytest.mark.parametrize("forced", ["", "sparse_conv=reference"])
@pytest.mark.parametrize("mode", ["subm", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_sites(
    mode: str, forced: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYBEV_OPS", forced)
    plan = make_plan(0, mode)
    out, *gradients = run(plan, *make_inputs(plan, 5, 16, dtype))
    assert out.shape == (0, 16)
    assert all(not g.any() for g in gradients)


def test_one_site_sees_the_centre_alone() -> None:
    plan = make_plan(1)
    features, weight, bias = make_inputs(plan, 5, 16)
    expected = features @ weight[:, 1, 1, 1].t() + bias
    torch.testing.assert_close(
        sparse_conv(features, weight, plan, bias), expected, **tolerances(torch.float32)
    )


def test_strided_memory_changes_nothing() -> None:
    plan = make_plan(300)
    leaves = [t.detach() for t in make_inputs(plan, 6, 18)]
    loose = [
        leaves[0].t().contiguous().t(),
        leaves[1].permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        torch.stack([leaves[2], leaves[2]], 1)[:, 0],
    ]
    assert not any(t.is_contiguous() for t in loose)
    tight = run(plan, *(t.requires_grad_() for t in leaves))
    ours = run(plan, *(t.requires_grad_() for t in loose))
    assert all(torch.equal(a, b) for a, b in zip(tight, ours, strict=True))


def test_missing_neighbours_are_not_read() -> None:
    plan = make_plan(40)
    features, weight, _ = make_inputs(plan, 4, 4)
    poisoned = features.detach().clone()
    poisoned[7] = float("nan")
    touched = (plan.table == 7).any(1)
    out = sparse_conv(poisoned, weight, plan)
    assert torch.equal(out.isnan().all(1), touched)
    assert not out[~touched].isnan().any()


def test_autocast_rounds_the_inputs_alone(implementation: str) -> None:
    plan = make_plan(60)
    features, weight, bias = make_inputs(plan, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_conv(features, weight, plan, bias)
    assert out.dtype == torch.bfloat16
    expected = sparse_conv(features.detach().bfloat16(), weight.detach(), plan, bias.detach())
    torch.testing.assert_close(out.detach(), expected, rtol=0, atol=0)


def test_autocast_keeps_the_weight_gradient_wide() -> None:
    plan = make_plan(200)
    features, weight, bias = make_inputs(plan, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_conv(features, weight, plan, bias)
    assert out.dtype == torch.bfloat16
    exact = sparse_conv(features, weight, plan, bias)
    out.float().sin().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == features.grad.dtype == torch.float32
    scale = exact.detach().abs().amax()
    torch.testing.assert_close(
        out.float() / scale, exact / scale, **tolerances(torch.bfloat16, "sparse_conv")
    )


def test_runs_without_gradients_build_no_transposed_lists() -> None:
    plan = make_plan(50, "strided")
    features, weight, _ = make_inputs(plan, 2, 2)
    sparse_conv(features.detach(), weight, plan)
    with torch.no_grad():
        sparse_conv(features, weight, plan)
    assert "transposed_pairs" not in vars(plan)
    sparse_conv(features, weight, plan)
    assert "transposed_pairs" in vars(plan)


def test_pair_lists_of_another_plan_are_refused() -> None:
    plan = make_plan(40)
    features, weight, _ = make_inputs(plan, 4, 4)
    lists = payload(plan.forward_pairs)
    forward, backward = torch.ops.anybev.sparse_conv, torch.ops.anybev.sparse_conv_grad_weight
    with pytest.raises(ValueError, match=r"features must be \(N, Cin\) and grad"):
        backward(features, torch.zeros(40), lists, [], 27)
    with pytest.raises(ValueError, match=r"features must be \(N, Cin\) and weight"):
        forward(features, weight[0], None, lists, [], 40)
    for position, broken, words in (
        (2, lists[2][:-1], "tile_ptr must be"),
        (1, lists[1][:-1], "pair_row must be"),
    ):
        damaged = [*lists[:position], broken, *lists[position + 1 :]]
        with pytest.raises(ValueError, match=words):
            forward(features, weight, None, damaged, [], 40)
    with pytest.raises(TypeError, match="must be int32, int16 and int32"):
        forward(features, weight, None, [lists[0], lists[1].int(), lists[2]], [], 40)


def test_pairs_that_name_no_row_are_never_followed(emulated: bool) -> None:
    """On the CPU they are an error; on CUDA, without waiting for the device, they give NaN."""
    plan = make_plan(40)
    features, weight, _ = (t.detach() for t in make_inputs(plan, 4, 4))
    source, row, start = payload(plan.forward_pairs)
    conv = torch.ops.anybev.sparse_conv
    grad_weight = torch.ops.anybev.sparse_conv_grad_weight
    few = torch.zeros(30, 4)
    if emulated:
        out = conv(features[:30], weight, None, [source, row, start], [], 40)
        assert torch.equal(out.isnan().all(1), (plan.table >= 30).any(1))
        assert torch.equal(out.isnan().any(1), out.isnan().all(1))
        assert conv(features, weight, None, [source, row, start], [], 30).isnan().all()
        assert conv(features, weight, None, [source, row, start.flip(0)], [], 40).isnan().all()
        for arguments in ((features[:30], torch.zeros(40, 4)), (features, few)):
            found = grad_weight(*arguments, [source, row, start], [], 27).isnan()
            damaged = [bool((row[a:b] >= 30).any()) for a, b in start.unfold(0, 2, 1)]
            if len(arguments[0]) == 30:
                damaged = [bool((source[a:b] >= 30).any()) for a, b in start.unfold(0, 2, 1)]
            assert torch.equal(found.all(2).all(0), torch.tensor(damaged))
            assert torch.equal(found.any(2).any(0), torch.tensor(damaged))
        return
    with pytest.raises(ValueError, match="pair lists must name features 0 to 29"):
        conv(features[:30], weight, None, [source, row, start], [], 40)
    with pytest.raises(ValueError, match="pair lists must name features 0 to 29"):
        grad_weight(features[:30], torch.zeros(40, 4), [source, row, start], [], 27)
    with pytest.raises(ValueError, match="rows of their tile"):
        conv(features, weight, None, [source, row, start], [], 30)
    with pytest.raises(ValueError, match="tile_ptr must rise"):
        conv(features, weight, None, [source, row, start.flip(0)], [], 40)


def test_wrong_arguments_are_named() -> None:
    plan = make_plan(10)
    features, weight, bias = make_inputs(plan, 4, 6)
    kxyzio = weight.permute(1, 2, 3, 4, 0)
    for arguments, error, words in (
        ((features.int(), weight, bias), TypeError, "features must be float32 or"),
        ((features, weight.double(), bias), TypeError, "weight must be float32"),
        ((features, weight, bias.half()), TypeError, "bias must be float32"),
        ((features[:9], weight, bias), ValueError, "features must be (10, Cin) for this plan"),
        ((features, kxyzio, bias), ValueError, "weight must be (Cout, 3, 3, 3, 4), got (3, 3, 3"),
        ((features, weight, bias[:5]), ValueError, "bias must be (6,), got (5,)"),
        ((features, weight.to("meta"), bias), ValueError, "weight must be on cpu, got meta"),
        ((features, weight, bias.to("meta")), ValueError, "bias must be on cpu, got meta"),
        ((features.to("meta"), weight.to("meta"), None), ValueError, "plan must be on meta"),
    ):
        with pytest.raises(error, match=re.escape(words)):
            sparse_conv(arguments[0], arguments[1], plan, arguments[2])


@pytest.mark.usefixtures("threads")
def test_real_sweep(test_data: Path, monkeypatch: pytest.MonkeyPatch, emulated: bool) -> None:
    """The first strided layer of the encoder, on one real sweep: reference, and threads."""
    if emulated:
        pytest.skip("the emulator is too slow for it")
    file = next((test_data / "data" / "nuscenes_frame").glob("*LIDAR_TOP*.bin"))
    points_lidar_m = torch.from_numpy(np.fromfile(file, np.float32).reshape(-1, 5))[:, :3]
    cells = ((points_lidar_m + torch.tensor([54, 54, 5])) / torch.tensor([0.075, 0.075, 0.2])).int()
    cells = cells[((cells >= 0) & (cells < torch.tensor([1440, 1440, 40]))).all(1)].unique(dim=0)
    coords = torch.cat([torch.zeros_like(cells[:, :1]), cells], 1)
    geometry = {"kernel_size": (3, 3, 3), "stride": (2, 2, 2), "padding": (1, 1, 1)}
    plan = sparse_neighbors(coords, (1440, 1440, 41), 1, mode="strided", **geometry)
    leaves = make_inputs(plan, 16, 32)
    torch.set_num_threads(1)
    alone = run(plan, *leaves)
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, run(plan, *leaves), strict=True))
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    for ours, wanted in zip(alone, run(plan, *leaves), strict=True):
        scale = wanted.abs().amax()
        torch.testing.assert_close(
            ours / scale, wanted / scale, **tolerances(torch.float32, "sparse_conv")
        )
