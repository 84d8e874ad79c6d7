"""sparse_neighbors: registrations, what it keeps, and what it refuses."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anybev.device.ops import sparse_neighbors as module
from anybev.device.ops._contract import CONTRACTS
from anybev.device.ops.sparse_neighbors import PlanSpec, sparse_neighbors, sparse_pyramid

SHAPE = (9, 8, 7)
SUBM = PlanSpec((3, 3, 3))
DOWN = PlanSpec((3, 3, 3), (2, 2, 2), (1, 1, 1), "strided")


def random_coords(density: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, *SHAPE, generator=generator) < density).nonzero().int()


def rows(*cells: tuple[int, int, int, int]) -> Tensor:
    return torch.tensor(cells, dtype=torch.int32)


def plan(coords: Tensor, **changes: object) -> module.SparseNeighbors:
    arguments: dict = {"kernel_size": (3, 3, 3), "mode": "subm"} | changes
    shape, batch = arguments.pop("spatial_shape", SHAPE), arguments.pop("batch_size", 2)
    return sparse_neighbors(coords, shape, batch, **arguments)


@pytest.mark.parametrize("suffix", ["", "_reference"])
def test_opcheck(suffix: str) -> None:
    coords = random_coords()
    specs = [*SUBM.pack(), *DOWN.pack()]
    operator = getattr(torch.ops.anybev, f"sparse_neighbors{suffix}").default
    torch.library.opcheck(operator, (coords, list(SHAPE), 2, specs))
    down = plan(coords, stride=(2, 2, 2), padding=(1, 1, 1), mode="strided")
    lists = down.forward_pairs
    payload = (lists.pair_source, lists.pair_row, lists.tile_ptr)
    for name, count in (("table", len(down.out_coords)), ("transpose", len(coords))):
        operator = getattr(torch.ops.anybev, f"sparse_neighbors_{name}{suffix}").default
        # The slow check, compilation with symbolic sizes, runs on the plans alone.
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operator, (*payload, count, 27), test_utils=tests)


def test_outputs_are_integers_and_carry_no_gradient() -> None:
    with torch.enable_grad():
        down = plan(random_coords(), stride=(2, 2, 2), padding=(1, 1, 1), mode="strided")
    lists = (down.forward_pairs, down.transposed_pairs)
    tensors = [down.out_coords, down.table, *(t for pairs in lists for t in vars(pairs).values())]
    assert {t.dtype for t in tensors} == {torch.int32, torch.int16}
    assert not any(t.requires_grad for t in tensors)


def test_forcing_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in CONTRACTS if name.startswith("sparse_neighbors")]
    assert len(names) == 3
    monkeypatch.setenv("ANYBEV_OPS", "sparse_neighbors=reference")
    assert {CONTRACTS[name].implementation("cpu") for name in names} == {"reference"}


def test_table_and_transposed_lists_are_built_once_and_when_asked_for() -> None:
    down = plan(random_coords(), stride=(2, 2, 2), padding=(1, 1, 1), mode="strided")
    assert not {"table", "transposed_pairs"} & set(vars(down))
    assert down.table is down.table
    assert down.transposed_pairs is down.transposed_pairs


def test_submanifold_padding_is_that_of_the_centred_kernel() -> None:
    assert plan(random_coords(), padding=(0, 2, 5)).padding == (1, 1, 1)


@pytest.mark.usefixtures("implementation")
def test_no_layers_give_no_plans() -> None:
    assert sparse_pyramid(random_coords(), SHAPE, 2, []) == []


def test_concurrent_calls_do_not_share_memory() -> None:
    coords, results = random_coords(0.3), list[Tensor]()
    expected = sparse_pyramid(coords, SHAPE, 2, [SUBM, DOWN])[1].table

    def work() -> None:
        results.extend(sparse_pyramid(coords, SHAPE, 2, [SUBM, DOWN])[1].table for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize(("depth", "expected"), [(7, 1), (90, 3)], ids=["words", "keys"])
def test_cuda_waits_for_the_device_once_a_call(
    device_waits: Callable[[], int], depth: int, expected: int
) -> None:
    # By sorted keys, once more a strided layer.
    before = device_waits()
    plans = sparse_pyramid(random_coords(), (9, 8, depth), 2, [SUBM, DOWN, SUBM, DOWN, SUBM])
    assert device_waits() - before == expected
    _ = plans[1].transposed_pairs, plans[1].table
    assert device_waits() - before == expected


OUTSIDE = {
    "negative": (0, -1, 0, 0),
    "x": (0, 9, 0, 0),
    "y": (1, 0, 8, 0),
    "z": (1, 0, 0, 7),
    "batch": (2, 0, 0, 0),
    "negative batch": (-1, 0, 0, 0),
}


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("cell", OUTSIDE.values(), ids=OUTSIDE)
def test_sites_outside_the_grid(cell: tuple[int, int, int, int]) -> None:
    b, x, y, z = cell
    message = rf"below \(2, 9, 8, 7\) and not negative, got \({b}, {x}, {y}, {z}\) in row 1"
    with pytest.raises(ValueError, match=message):
        plan(rows((0, 1, 1, 1), cell, (1, 99, 0, 0)))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("depth", [7, 90])
@pytest.mark.parametrize("mode", ["subm", "strided"])
def test_duplicate_sites(depth: int, mode: str) -> None:
    shape, message = (9, 8, depth), r"unique rows, got \(1, 2, 3, 4\) more than once; try torch"
    for coords in (
        rows((0, 1, 1, 1), (1, 2, 3, 4), (1, 2, 3, 4)),
        rows((1, 2, 3, 4), (0, 1, 1, 1), (1, 2, 3, 4)),
    ):
        with pytest.raises(ValueError, match=message):
            plan(coords, spatial_shape=shape, mode=mode)
    # A refused call leaves nothing behind for the next one.
    assert len(plan(rows((1, 2, 3, 5)), spatial_shape=shape).forward_pairs.pair_row) == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float16])
def test_coords_of_another_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="coords must be int32, got"):
        plan(random_coords().to(dtype))


def test_coords_that_are_no_tensor() -> None:
    with pytest.raises(TypeError, match="coords must be a tensor, got list"):
        plan([[0, 0, 0, 0]])  # type: ignore[arg-type]


def test_coords_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"coords must be \(N, 4\), got \(5, 3\)"):
        plan(torch.zeros(5, 3, dtype=torch.int32))


REFUSED = {
    "mode": ({"mode": "inverse"}, "mode must be subm or strided, got 'inverse'"),
    "even": ({"kernel_size": (3, 2, 3)}, "a subm plan must have stride 1 and odd kernel_size"),
    "stride": ({"stride": (2, 1, 1)}, "a subm plan must have stride 1 and odd kernel_size"),
    "no stride": ({"stride": (0, 1, 1)}, "stride must be 3 integers of at least 1"),
    "kernel": ({"kernel_size": (3, 3)}, r"kernel_size must be 3 integers .* got \(3, 3\)"),
    "padding": ({"padding": (0, 0, -1)}, "padding must be 3 integers of at least 0"),
    "float": ({"padding": (0, 0, 0.5)}, "padding must be 3 integers of at least 0"),
    "shape": ({"spatial_shape": (9, 0, 7)}, "spatial_shape must be 3 integers of at least 1"),
    "batch": ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    "too large": (
        {"kernel_size": (1, 1, 8), "mode": "strided"},
        "kernel_size must be at most the padded grid",
    ),
    "too many cells": (
        {"spatial_shape": (1 << 30, 1 << 30, 2)},
        r"spatial_shape must give fewer than 2\^62 cells a batch",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_geometry(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(random_coords(), **changes)


def test_kernel_refuses_lists_of_another_kernel(emulated: bool) -> None:
    if CONTRACTS["sparse_neighbors"].implementation("cpu") != "native":
        pytest.skip("no compiled sparse_neighbors in this installation")
    lists = plan(random_coords()).forward_pairs
    payload = (lists.pair_source, lists.pair_row, lists.tile_ptr)
    with pytest.raises(ValueError, match="pair lists must belong to this kernel"):
        torch.ops.anybev.sparse_neighbors_table(*payload, 10, 26)
    if emulated:  # CUDA kernels do not wait for the device to say so: they leave such pairs out
        source, row, tile_ptr = torch.ops.anybev.sparse_neighbors_transpose(*payload, 3, 27)
        kept = int((lists.pair_source < 3).sum())
        assert 0 < int(tile_ptr[-1]) == kept < len(source)
        assert (row[:kept] < 3).all()
        return
    with pytest.raises(ValueError, match="pair_source must be below 3, got"):
        torch.ops.anybev.sparse_neighbors_transpose(*payload, 3, 27)
