"""Plans of BEVFusion's encoder, beside spconv's maps and the plain-PyTorch reference."""

from collections.abc import Iterator
from types import ModuleType

from torch import Tensor

from anybev.benchmark.ops import peers
from anybev.benchmark.ops.harness import OURS, REFERENCE, Context, Row, Side, on_reference
from anybev.benchmark.ops.scene import ENCODER, GRID, Scene
from anybev.device.ops.sparse_neighbors import SparseNeighbors, sparse_pyramid

NAME = "sparse_neighbors"


def _plans(scene: Scene) -> list[SparseNeighbors]:
    return sparse_pyramid(scene.coords, GRID, 1, list(ENCODER.values()))


def _training_plans(scene: Scene) -> list[SparseNeighbors]:
    plans = _plans(scene)
    for plan in plans:
        if not plan.is_symmetric:
            _ = plan.transposed_pairs
    return plans


def spconv_maps(spconv: ModuleType, scene: Scene) -> list[Tensor]:
    """Spconv's indice pairs of the same eight layers, chained as its modules chain them."""
    sites, shape, maps = scene.coords, GRID, []
    for spec in ENCODER.values():
        geometry = (spec.kernel_size, spec.stride, spec.effective_padding(), (1, 1, 1), (0, 0, 0))
        subm = spec.mode == "subm"
        functions, arguments = spconv.ops, (*map(list, geometry), subm)
        if sites.is_cpu:
            out, pairs, _ = functions.get_indice_pairs(
                sites, 1, list(shape), functions.ConvAlgo.Native, *arguments
            )
        else:  # what its convolutions run on where there is a GPU
            out, _, pairs, *_ = functions.get_indice_pairs_implicit_gemm(
                sites, 1, list(shape), functions.ConvAlgo.MaskImplicitGemm, *arguments
            )
        maps.append(pairs)
        sites, shape = (sites, shape) if subm else (out, spec.out_shape(shape))
    return maps


def _scene_rows(ctx: Context, scene: Scene, threads: int) -> Iterator[Row]:
    plans, spconv = scene.plans.values(), peers.spconv(ctx.device.type)
    shape: dict[str, int | list[int]] = {
        "sites": [len(plan.out_coords) for plan in plans],
        "pairs": [len(plan.forward_pairs.pair_row) for plan in plans],
    }
    case = f"{scene.name} encoder, 8 plans"
    how = "builds its maps on one thread" if ctx.on_cpu else "masked implicit GEMM, for training"
    notes = {peers.spconv_name(): how} if spconv else {}
    ours: Side = lambda: _plans(scene)  # noqa: E731
    sides = {OURS: ours, REFERENCE: on_reference(NAME, ours)}
    if spconv is not None:
        sides[peers.spconv_name()] = lambda: spconv_maps(spconv, scene)
    common = {"shape": shape, "direction": "plan", "threads": threads, "dtype": "int32"}
    yield from ctx.compare(NAME, case, sides, notes=notes, **common)  # type: ignore[arg-type]
    with_gradient: dict[str, Side] = {OURS: lambda: _training_plans(scene)}
    yield from ctx.compare(NAME, f"{case} + transposed", with_gradient, **common)  # type: ignore[arg-type]


def rows(ctx: Context) -> Iterator[Row]:
    """Whole encoder, for inference and for training (transposed lists of the strided plans)."""
    for scene in ctx.scenes.values():
        for threads in ctx.threads:
            yield from _scene_rows(ctx, scene, threads)
