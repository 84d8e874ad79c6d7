"""Plans of sparse convolutions against a loop over dictionaries, on every path of every backend."""

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.device.ops.sparse_neighbors import (
    TILE,
    PairLists,
    PlanSpec,
    SparseNeighbors,
    sparse_neighbors,
    sparse_pyramid,
)

SUBM = PlanSpec((3, 3, 3))
DOWN = PlanSpec((3, 3, 3), (2, 2, 2), (1, 1, 1), "strided")
GEOMETRIES = {
    "subm": SUBM,
    "subm_flat": PlanSpec((3, 1, 5)),
    "point": PlanSpec((1, 1, 1)),
    "down": DOWN,
    "down_z0": PlanSpec((3, 3, 3), (2, 2, 2), (1, 1, 0), "strided"),
    "squeeze_z": PlanSpec((1, 1, 3), (1, 1, 2), mode="strided"),
    "dilating": PlanSpec((3, 3, 3), padding=(1, 1, 1), mode="strided"),
    "uneven": PlanSpec((2, 4, 3), (3, 1, 2), (2, 0, 4), "strided"),
    "skipping": PlanSpec((1, 2, 1), (3, 3, 3), mode="strided"),
    "long": PlanSpec((1, 1, 35), (1, 1, 2), (0, 0, 17), "strided"),
}
# One word a column, the deepest that has room for a rank, and deeper: sorted keys.
SHAPES = {"words": (9, 8, 7), "full_words": (7, 8, 55), "keys": (6, 7, 90)}


def random_coords(
    shape: tuple[int, int, int], batch: int = 2, density: float = 0.15, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, *shape, generator=generator) < density).nonzero().int()


def shuffled(coords: Tensor, seed: int = 1) -> Tensor:
    return coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(seed))]


def naive_table(coords: Tensor, spec: PlanSpec, shape: tuple[int, int, int]) -> dict:
    """{output (b, x, y, z): {offset: input row}} by visiting every input and every tap."""
    rows = {tuple(site): row for row, site in enumerate(coords.tolist())}
    outputs: dict = {site: {} for site in rows} if spec.mode == "subm" else {}
    taps = list(enumerate(itertools.product(*map(range, spec.kernel_size))))
    limits = spec.out_shape(shape)
    for (b, *cell), row in rows.items():
        for k, tap in taps:
            moved = [c + p - t for c, p, t in zip(cell, spec.effective_padding(), tap, strict=True)]
            if any(m % s for m, s in zip(moved, spec.stride, strict=True)):
                continue
            out = (b, *(m // s for m, s in zip(moved, spec.stride, strict=True)))
            inside = all(0 <= o < n for o, n in zip(out[1:], limits, strict=True))
            if inside and (spec.mode != "subm" or out in outputs):
                outputs.setdefault(out, {})[k] = row
    return outputs


def listed(pairs: PairLists, offsets: int) -> list[tuple[int, int, int]]:
    """(offset, row, source) of every pair, in the order of the lists."""
    found = []
    ends = pairs.tile_ptr.tolist()
    for number, (start, stop) in enumerate(itertools.pairwise(ends)):
        tile, offset = divmod(number, offsets)
        rows, sources = pairs.pair_row[start:stop].tolist(), pairs.pair_source[start:stop].tolist()
        assert rows == sorted(set(rows))
        assert all(0 <= row < TILE for row in rows)
        found += [(offset, tile * TILE + r, s) for r, s in zip(rows, sources, strict=True)]
    assert ends[0] == 0
    assert ends[-1] == len(pairs.pair_row) == len(pairs.pair_source)
    return found


def assert_same_plan(a: SparseNeighbors, b: SparseNeighbors) -> None:
    assert torch.equal(a.out_coords, b.out_coords)
    assert torch.equal(a.table, b.table)
    for pairs in ("forward_pairs", "transposed_pairs"):
        for name in ("pair_source", "pair_row", "tile_ptr"):
            left, right = getattr(getattr(a, pairs), name), getattr(getattr(b, pairs), name)
            assert left.dtype == right.dtype
            assert torch.equal(left, right), (pairs, name)


def plan_one(coords: Tensor, spec: PlanSpec, shape: tuple[int, int, int]) -> SparseNeighbors:
    return sparse_pyramid(coords, shape, 2, [spec])[0]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("order", ["ascending", "by_sample", "any"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_naive_loop(geometry: str, shape: tuple[int, int, int], order: str) -> None:
    coords, spec = random_coords(shape, density=0.08), GEOMETRIES[geometry]
    if order == "any":
        coords = shuffled(coords)
    if order == "by_sample":
        coords = torch.cat([shuffled(coords[coords[:, 0] == b]) for b in range(2)])
    expected = naive_table(coords, spec, shape)
    plan = plan_one(coords, spec, shape)
    assert plan.out_shape == spec.out_shape(shape)
    sites = list(expected) if spec.mode == "subm" else sorted(expected)
    assert list(map(tuple, plan.out_coords.tolist())) == sites
    offsets = math.prod(spec.kernel_size)
    table = [[expected[site].get(k, -1) for k in range(offsets)] for site in sites]
    assert plan.table.tolist() == table
    pairs = {(k, m, n) for m, row in enumerate(table) for k, n in enumerate(row) if n >= 0}
    forward, backward = (listed(p, offsets) for p in (plan.forward_pairs, plan.transposed_pairs))
    assert set(forward) == pairs
    assert len(forward) == len(pairs) == len(backward)
    assert {(k, m, n) for k, n, m in backward} == pairs


@pytest.mark.usefixtures("implementation")
def test_submanifold_lists_run_backwards_with_flipped_offsets() -> None:
    plan = plan_one(random_coords((9, 8, 7)), SUBM, (9, 8, 7))
    forward, backward = (listed(p, 27) for p in (plan.forward_pairs, plan.transposed_pairs))
    assert sorted((26 - k, m, n) for k, m, n in forward) == sorted(backward)
    assert plan.is_symmetric
    assert plan.out_coords is plan.in_coords


@pytest.mark.usefixtures("implementation")
def test_inverse_swaps_sites_and_lists() -> None:
    coords = shuffled(random_coords((9, 8, 7)))
    plan = plan_one(coords, DOWN, (9, 8, 7))
    back = plan.inverse()
    assert (back.mode, back.in_shape, back.out_shape) == ("inverse", (5, 4, 4), (9, 8, 7))
    assert back.out_coords is coords
    assert back.in_coords is plan.out_coords
    assert not back.is_symmetric
    assert back.forward_pairs is plan.transposed_pairs
    assert back.transposed_pairs is plan.forward_pairs
    assert back.inverse() is plan
    assert plan.inverse() is back
    expected = torch.full((len(coords), 27), -1, dtype=torch.int32)
    for m, row in enumerate(plan.table.tolist()):
        for k, n in enumerate(row):
            if n >= 0:
                expected[n, k] = m
    assert torch.equal(back.table, expected)


@pytest.mark.usefixtures("implementation")
def test_pyramid_equals_plans_built_one_by_one() -> None:
    shape, layers = (20, 18, 21), [SUBM, DOWN, SUBM, GEOMETRIES["down_z0"], GEOMETRIES["squeeze_z"]]
    coords = shuffled(random_coords(shape, 3, 0.05))
    sites, expected_shape = coords, shape
    for plan, spec in zip(sparse_pyramid(coords, shape, 3, layers), layers, strict=True):
        alone = sparse_neighbors(
            sites,
            expected_shape,
            3,
            kernel_size=spec.kernel_size,
            stride=spec.stride,
            padding=spec.padding,
            mode=spec.mode,
        )
        assert_same_plan(plan, alone)
        assert plan.in_shape == expected_shape
        sites, expected_shape = plan.out_coords, plan.out_shape


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("spec", [SUBM, DOWN], ids=["subm", "down"])
def test_no_sites(spec: PlanSpec) -> None:
    plan = plan_one(torch.empty(0, 4, dtype=torch.int32), spec, (9, 8, 7))
    assert plan.out_coords.shape == (0, 4)
    assert plan.table.shape == (0, 27)
    for pairs in (plan.forward_pairs, plan.transposed_pairs):
        assert pairs.pair_source.shape == pairs.pair_row.shape == (0,)
        assert pairs.tile_ptr.tolist() == [0]


@pytest.mark.usefixtures("implementation")
def test_one_site() -> None:
    coords = torch.tensor([[1, 8, 7, 6]], dtype=torch.int32)
    plan = plan_one(coords, DOWN, (9, 8, 7))
    assert plan.out_coords.tolist() == [
        [1, 4, 3, 3],
    ]
    assert listed(plan.forward_pairs, 27) == [(1 * 9 + 2 * 3 + 1, 0, 0)]
    assert plan_one(coords, SUBM, (9, 8, 7)).table.tolist() == [[-1] * 13 + [0] + [-1] * 13]


@pytest.mark.usefixtures("implementation")
def test_sites_that_no_output_reaches_give_a_level_without_pairs() -> None:
    coords = torch.tensor([[0, 1, 1, 1], [1, 3, 3, 3]], dtype=torch.int32)
    spec = PlanSpec((1, 1, 1), (2, 2, 2), mode="strided")
    plan, above = sparse_pyramid(coords, (4, 4, 4), 2, [spec, SUBM])
    assert len(plan.out_coords) == len(above.out_coords) == 0
    assert listed(plan.transposed_pairs, 1) == []
    assert plan.inverse().table.tolist() == [[-1], [-1]]


@pytest.mark.usefixtures("implementation")
def test_samples_without_sites_change_nothing() -> None:
    coords = random_coords((9, 8, 7), batch=1)
    moved = coords + torch.tensor([2, 0, 0, 0], dtype=torch.int32)
    for spec in (SUBM, DOWN):
        alone = sparse_pyramid(coords, (9, 8, 7), 1, [spec])[0]
        among = sparse_pyramid(moved, (9, 8, 7), 4, [spec])[0]
        assert torch.equal(among.table, alone.table)
        assert torch.equal(among.out_coords[:, 1:], alone.out_coords[:, 1:])
        assert set(among.out_coords[:, 0].tolist()) == {2}


@pytest.mark.usefixtures("implementation")
def test_non_contiguous_coords() -> None:
    coords = random_coords((9, 8, 7))
    transposed = coords.t().contiguous().t()
    assert not transposed.is_contiguous()
    for spec in (SUBM, DOWN):
        assert_same_plan(plan_one(transposed, spec, (9, 8, 7)), plan_one(coords, spec, (9, 8, 7)))


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("spec", [SUBM, DOWN], ids=["subm", "down"])
def test_a_plane_too_wide_for_words_changes_nothing(spec: PlanSpec) -> None:
    # Away from the edges, which are elsewhere in the wide plane.
    coords = random_coords((9, 8, 7)) + torch.tensor([0, 2, 2, 0]).int()
    plan, corner = plan_one(coords, spec, (14, 13, 7)), torch.tensor([0, 1 << 13, 1 << 12, 0])
    wide = plan_one(coords + corner.int(), spec, ((1 << 14) + 1, 1 << 13, 7))
    assert torch.equal(wide.table, plan.table)
    scale = torch.tensor([1, *spec.stride])
    assert torch.equal(wide.out_coords, (plan.out_coords + corner // scale).int())


def test_full_grid_has_every_pair() -> None:
    coords = random_coords((6, 7, 8), density=2.0)
    plan = plan_one(coords, SUBM, (6, 7, 8))
    assert len(plan.forward_pairs.pair_row) == 2 * math.prod(3 * n - 2 for n in (6, 7, 8))


SUMMARY = """
import hashlib, torch
from anybev.device.ops.sparse_neighbors import PlanSpec, sparse_pyramid

def summary():
    shape, generator = (32, 30, 41), torch.Generator().manual_seed(0)
    coords = (torch.rand(3, *shape, generator=generator) < 0.02).nonzero().int()
    down = PlanSpec((3, 3, 3), (2, 2, 2), (1, 1, 1), "strided")
    digest = hashlib.sha256()
    for sites in (coords, coords[torch.randperm(len(coords), generator=generator)]):
        for plan in sparse_pyramid(sites, shape, 3, [PlanSpec((3, 3, 3)), down, down]):
            for pairs in (plan.forward_pairs, plan.transposed_pairs):
                for tensor in (plan.out_coords, plan.table, *vars(pairs).values()):
                    digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
"""


def summary() -> str:
    """Digest of plans over 2,400 sites, ascending and in any order."""
    names: dict = {}
    exec(SUMMARY, names)
    return str(names["summary"]())


def summary_elsewhere(instructions: str) -> str:
    """The same digest from a process that may use fewer instructions."""
    command = [sys.executable, "-c", SUMMARY + "print(summary())"]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": instructions}
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return finished.stdout.strip()


def test_same_bits_on_every_thread_count_and_instruction_set(
    set_threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, emulated: bool
) -> None:
    with monkeypatch.context() as forced:
        forced.setenv("ANYBEV_OPS", "sparse_neighbors=reference")
        expected = summary()
    for threads in (1, 2):
        set_threads(threads)
        assert summary() == expected
    if emulated:  # these kernels know no instruction sets
        return
    assert summary_elsewhere("avx2") == expected
    assert summary_elsewhere("default") == expected


def test_real_sweep_has_the_levels_of_the_encoder(test_data: Path) -> None:
    sweep = next((test_data / "data" / "nuscenes_frame").glob("*LIDAR_TOP*.bin"))
    points = torch.from_numpy(np.fromfile(sweep, np.float32).reshape(-1, 5)[:, :3].copy())
    cells = torch.floor(
        (points - torch.tensor([-54.0, -54.0, -5.0])) / torch.tensor([0.075, 0.075, 0.2])
    )
    inside = ((cells >= 0) & (cells < torch.tensor([1440.0, 1440.0, 40.0]))).all(1)
    cells = torch.unique(cells[inside].int(), dim=0)
    coords = torch.nn.functional.pad(cells, (1, 0))
    layers = [SUBM, DOWN, SUBM, DOWN, SUBM, GEOMETRIES["down_z0"], SUBM, GEOMETRIES["squeeze_z"]]
    plans = sparse_pyramid(coords, (1440, 1440, 41), 1, layers)
    # Sites, and pairs of the submanifold plans, as spconv 2.3.8 counts them on this sweep.
    assert [len(plan.in_coords) for plan in plans[::2]] == [17509, 29374, 21571, 11174]
    assert [len(plan.forward_pairs.pair_row) for plan in plans[::2]] == [
        55517,
        282806,
        267243,
        153870,
    ]


def test_spconv_finds_the_same_pairs(set_threads: Callable[[int], None]) -> None:
    pytest.importorskip("spconv", reason="spconv is not installed")
    from anybev.benchmark.ops import peers

    spconv = peers.spconv()
    assert spconv is not None
    set_threads(1)
    shape = (30, 28, 21)
    coords = random_coords(shape, density=0.03).contiguous()  # spconv does not look at strides
    for spec in (SUBM, DOWN, GEOMETRIES["squeeze_z"]):
        plan = plan_one(coords, spec, shape)
        geometry = [list(g) for g in (spec.kernel_size, spec.stride, spec.effective_padding())]
        offsets, subm = math.prod(spec.kernel_size), spec.mode == "subm"
        algorithm, ones, zeros = spconv.ops.ConvAlgo.Native, [1, 1, 1], [0, 0, 0]
        out, pairs, _ = spconv.ops.get_indice_pairs(
            coords, 2, list(shape), algorithm, *geometry, ones, zeros, subm
        )
        # Unused places hold -1; the counts leave out one half of a submanifold map.
        k, place = (pairs[0] >= 0).nonzero().unbind(1)
        sources, rows = pairs[0, k, place].long(), pairs[1, k, place].long()
        theirs = torch.cat([k[:, None], coords[sources], out[rows]], 1).tolist()
        ours = [
            [k, *plan.in_coords[n].tolist(), *plan.out_coords[m].tolist()]
            for k, m, n in listed(plan.forward_pairs, offsets)
        ]
        assert len(out) == len(plan.out_coords)
        assert sorted(ours) == sorted(theirs)
