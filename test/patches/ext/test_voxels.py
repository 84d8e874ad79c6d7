"""Names that put points into voxels, against mmcv's rules written out as loops."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.patches.ext import voxels as ext
from anybev.patches.ext.projects_bevfusion import BEV_POOL_EXT, VOXEL_LAYER
from anybev.testing.tolerances import tolerances

SIZE = [0.3, 0.7, 0.4]
RANGE = [-0.9, -0.7, -1.0, 0.9, 1.4, 1.0]
# A range of 2.5, 3.5 and 2 voxels: mmcv rounds halves up, to 3 and 4.
ODD_SIZE, ODD_RANGE = [1.0, 1.0, 1.0], [0.0, 0.0, -1.0, 2.5, 3.5, 1.0]


def cloud(count: int, columns: int = 5, seed: int = 0) -> Tensor:
    """Points in and around the range, one of them NaN."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, columns, generator=generator) * 0.8
    points[count // 2 : count // 2 + 1, 1] = float("nan")
    return points


def loop_cells(points: Tensor, size: list[float], bounds: list[float]) -> list[list[int]]:
    """Cell x, y, z of each point, -1 outside; the arithmetic of mmcv's kernel in float32."""
    low, high, step = (np.array(v, np.float32) for v in (bounds[:3], bounds[3:], size))
    grid = np.floor((high - low) / step + np.float32(0.5))
    cells = []
    for point in points.float().numpy()[:, :3]:
        cell = np.floor((point - low) / step)
        inside = bool(np.all((cell >= 0) & (cell < grid)))
        cells.append([int(c) for c in cell] if inside else [-1, -1, -1])
    return cells


def loop_hard(
    points: Tensor, size: list[float], bounds: list[float], max_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Kept points, cells x, y, z and number of kept points of each voxel."""
    members: dict[tuple[int, ...], list[Tensor]] = {}
    for point, cell in zip(points, loop_cells(points, size, bounds), strict=True):
        if cell[0] < 0 or (tuple(cell) not in members and len(members) == max_voxels):
            continue
        members.setdefault(tuple(cell), []).append(point)
    kept = points.new_zeros(len(members), max_points, points.shape[1])
    for row, rows in zip(kept, members.values(), strict=True):
        row[: len(rows)] = torch.stack(rows)[:max_points]
    counts = [min(len(rows), max_points) for rows in members.values()]
    coords = torch.tensor(list(members), dtype=torch.int32).reshape(-1, 3)
    return kept, coords, torch.tensor(counts, dtype=torch.int32)


def call_hard(
    points: Tensor, size: list[float], bounds: list[float], max_points: int, max_voxels: int
) -> tuple[Tensor, ...]:
    """As ``mmcv.ops.voxelization`` calls it."""
    kept = points.new_zeros(max_voxels, max_points, points.shape[1])
    coords = torch.zeros(max_voxels, 3, dtype=torch.int32)
    counts = torch.zeros(max_voxels, dtype=torch.int32)
    number = torch.zeros((), dtype=torch.long)
    ext.hard_voxelize_forward(
        points,
        torch.tensor(size),
        torch.tensor(bounds),
        kept,
        coords,
        counts,
        number,
        max_points=max_points,
        max_voxels=max_voxels,
        NDim=3,
        deterministic=True,
    )
    assert not kept[number:].any()
    return kept[:number], coords[:number], counts[:number]


def assert_equal(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("columns", [3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("max_points", "max_voxels"), [(10, 1000), (2, 1000), (3, 20), (1, 1)])
@pytest.mark.parametrize(("size", "bounds"), [(SIZE, RANGE), (ODD_SIZE, ODD_RANGE)])
def test_hard_voxelize(
    columns: int,
    dtype: torch.dtype,
    max_points: int,
    max_voxels: int,
    size: list[float],
    bounds: list[float],
) -> None:
    points = cloud(300, columns).to(dtype)
    kept, coords, counts = loop_hard(points, size, bounds, max_points, max_voxels)
    actual = call_hard(points, size, bounds, max_points, max_voxels)
    assert_equal(actual, (kept, coords.flip(1), counts))


@pytest.mark.parametrize("points", [torch.zeros(0, 5), torch.full((4, 5), 99.0)])
def test_hard_voxelize_without_voxels(points: Tensor) -> None:
    assert [len(output) for output in call_hard(points, SIZE, RANGE, 10, 20)] == [0, 0, 0]


def test_hard_voxelize_takes_points_that_are_not_contiguous() -> None:
    points = cloud(300, 10)[::2, ::2]
    kept, coords, counts = loop_hard(points, SIZE, RANGE, 4, 50)
    assert_equal(call_hard(points, SIZE, RANGE, 4, 50), (kept, coords.flip(1), counts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize(("size", "bounds"), [(SIZE, RANGE), (ODD_SIZE, ODD_RANGE)])
def test_dynamic_voxelize(
    dtype: torch.dtype, count: int, size: list[float], bounds: list[float]
) -> None:
    points = cloud(count).to(dtype)
    coords = torch.zeros(count, 3, dtype=torch.int32)
    ext.dynamic_voxelize_forward(points, torch.tensor(size), torch.tensor(bounds), coords, NDim=3)
    assert coords.flip(1).tolist() == loop_cells(points, size, bounds)


@pytest.mark.parametrize("axes", [2, 4])
def test_refuses_other_axes(axes: int) -> None:
    with pytest.raises(ValueError, match=f"dynamic_voxelize: NDim must be 3, got {axes}"):
        VOXEL_LAYER["dynamic_voxelize"](cloud(3), torch.zeros(3, 3).int(), SIZE, RANGE, axes)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("columns", [3, 4])
def test_point_to_voxel_both_ways(reduce: str, dtype: torch.dtype, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    feats = torch.randint(-3, 4, (200, 6), generator=generator).to(dtype)
    coors = torch.randint(0, 3, (200, columns), generator=generator).int()
    coors[::7, 1] = -1
    members = defaultdict(list)
    for i, row in enumerate(coors.tolist()):
        if min(row) >= 0:
            members[tuple(row)].append(i)
    voxels = sorted(members)
    reduced, voxel_coors, voxel, counts = ext.dynamic_point_to_voxel_forward(feats, coors, reduce)
    assert voxel_coors.tolist() == [list(v) for v in voxels]
    assert counts.tolist() == [len(members[v]) for v in voxels]
    assert (reduced.dtype, voxel_coors.dtype) == (dtype, torch.int32)
    assert (voxel.dtype, counts.dtype) == (torch.int32, torch.int32)

    grad = torch.randn(reduced.shape, generator=generator).to(dtype)
    expected_grad = torch.zeros_like(feats)
    for v, rows in enumerate(members[key] for key in voxels):
        assert voxel[rows].tolist() == [v] * len(rows)
        values = feats[rows].double()
        form = {"sum": values.sum(0), "mean": values.mean(0), "max": values.amax(0)}[reduce]
        torch.testing.assert_close(reduced[v], form.to(dtype), **tolerances(dtype))
        if reduce == "max":  # the first point that holds it
            first = values.argmax(0)
            expected_grad[torch.tensor(rows)[first], torch.arange(6)] = grad[v]
        else:
            expected_grad[rows] = grad[v] / (len(rows) if reduce == "mean" else 1)
    assert voxel[::7].tolist() == [-1] * len(voxel[::7])

    grad_feats = torch.full_like(feats, 7)
    ext.dynamic_point_to_voxel_backward(
        grad_feats, grad, feats, reduced, voxel, counts, reduce_type=reduce
    )
    torch.testing.assert_close(grad_feats, expected_grad, **tolerances(dtype))


def test_point_to_voxel_of_nothing() -> None:
    outputs = ext.dynamic_point_to_voxel_forward(
        torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.int32), "max"
    )
    assert [tuple(o.shape) for o in outputs] == [(0, 4), (0, 3), (0,), (0,)]


@pytest.mark.parametrize(("max_points", "max_voxels"), [(10, 1000), (2, 30)])
def test_hard_voxelize_of_the_project_writes_x_first(max_points: int, max_voxels: int) -> None:
    points = cloud(300)
    kept = torch.zeros(max_voxels, max_points, 5)
    coords = torch.zeros(max_voxels, 3, dtype=torch.int32)
    counts = torch.zeros(max_voxels, dtype=torch.int32)
    number = VOXEL_LAYER["hard_voxelize"](
        points, kept, coords, counts, SIZE, RANGE, max_points, max_voxels, 3, True
    )
    assert isinstance(number, int)
    expected = loop_hard(points, SIZE, RANGE, max_points, max_voxels)
    assert_equal((kept[:number], coords[:number], counts[:number]), expected)


def test_dynamic_voxelize_of_the_project_writes_x_first() -> None:
    points, coords = cloud(300), torch.zeros(300, 3, dtype=torch.int32)
    VOXEL_LAYER["dynamic_voxelize"](points, coords, SIZE, RANGE, 3)
    assert coords.tolist() == loop_cells(points, SIZE, RANGE)


def intervals(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths and starts of the runs of equal rows."""
    _, lengths = torch.unique_consecutive(coords, dim=0, return_counts=True)
    return lengths.int(), (lengths.cumsum(0) - lengths).int()


@pytest.mark.parametrize("depth", [1, 3])
def test_bev_pool_of_the_project(depth: int) -> None:
    b, h, w = 2, 5, 4
    generator = torch.Generator().manual_seed(0)
    bounds = (h, w, depth, b)
    coords = torch.stack([torch.randint(0, n, (200,), generator=generator) for n in bounds], 1)
    coords = coords[np.lexsort(coords.numpy().T)].int()
    x = torch.randn(200, 6, generator=generator)
    arguments: tuple[Any, ...] = (coords, *intervals(coords), b, depth, h, w)
    out = BEV_POOL_EXT["bev_pool_forward"](x, *arguments)
    expected = torch.zeros(b, depth, h, w, 6)
    for row, (ix, iy, iz, sample) in zip(x, coords.tolist(), strict=True):
        expected[sample, iz, ix, iy] += row
    torch.testing.assert_close(out, expected, **tolerances(torch.float32))
    assert BEV_POOL_EXT["bev_pool_forward"](x.half(), *arguments).dtype == torch.float16

    grad = torch.randn(expected.shape, generator=generator)
    ix, iy, iz, sample = coords.long().unbind(1)
    back = BEV_POOL_EXT["bev_pool_backward"](grad, *arguments)
    assert torch.equal(back, grad[sample, iz, ix, iy])


def test_voxelization_through_mmcv(host: object) -> None:
    from mmcv.ops import Voxelization

    points = cloud(300)
    layer = Voxelization(SIZE, RANGE, max_num_points=3, max_voxels=(20, 1000))
    for training, cap in ((True, 20), (False, 1000)):
        kept, coords, counts = loop_hard(points, SIZE, RANGE, 3, cap)
        assert_equal(layer.train(training)(points), (kept, coords.flip(1), counts))
    coords = Voxelization(SIZE, RANGE, max_num_points=-1)(points)
    assert coords.flip(1).tolist() == loop_cells(points, SIZE, RANGE)


@pytest.mark.parametrize("average", [True, False])
def test_dynamic_scatter_through_mmcv(host: object, average: bool) -> None:
    from mmcv.ops import DynamicScatter

    generator = torch.Generator().manual_seed(1)
    feats = torch.randn(40, 3, generator=generator, dtype=torch.float64).requires_grad_()
    coors = torch.randint(0, 3, (40, 3), generator=generator).int()
    layer = DynamicScatter(SIZE, RANGE, average_points=average)
    reduced, voxel_coors = layer(feats, coors)
    unique, voxel = torch.unique(coors, dim=0, return_inverse=True)
    assert torch.equal(voxel_coors, unique)
    for v in range(len(unique)):
        rows = feats[voxel == v]
        form = rows.mean(0) if average else rows.amax(0)
        torch.testing.assert_close(reduced[v], form, **tolerances(torch.float64))
    assert torch.autograd.gradcheck(lambda x: layer(x, coors)[0], feats)

    batch = torch.cat([torch.arange(40)[:, None].int() // 20, coors], 1)
    features, feature_coors = layer(feats, batch)
    assert torch.equal(feature_coors, torch.unique(batch, dim=0))
    torch.testing.assert_close(
        features[: len(layer(feats[:20], coors[:20])[0])], layer(feats[:20], coors[:20])[0]
    )
