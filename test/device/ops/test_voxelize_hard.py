"""Hard voxelisation against the sequential rule, written out as a loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.device.ops._voxel_grid import voxel_grid
from anybev.device.ops.voxelize_hard import _CONTRACT, voxelize_hard, voxelize_hard_points

VOXEL = (0.075, 0.075, 0.2)
RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
SMALL_VOXEL = (0.3, 0.7, 0.4)
SMALL_RANGE = (-0.9, -0.7, -1.0, 0.9, 1.4, 1.0)


def sequential(
    points: Tensor,
    voxel_size: tuple[float, ...],
    point_cloud_range: tuple[float, ...],
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The rule as a loop over the points, in float32."""
    low = np.array(point_cloud_range[:3], np.float32)
    size = np.array(voxel_size, np.float32)
    grid = voxel_grid(voxel_size, point_cloud_range)
    rows = points.numpy()
    with np.errstate(invalid="ignore"):
        cells = np.floor((rows[:, :3] - low) / size)
    voxels: dict[tuple[int, ...], list[np.ndarray]] = {}
    for cell, row in zip(cells, rows, strict=True):
        if not all(0 <= c < n for c, n in zip(cell, grid, strict=True)):
            continue
        key = tuple(int(c) for c in cell)
        if key not in voxels:
            if len(voxels) == max_voxels:
                continue
            voxels[key] = []
        if len(voxels[key]) < max_points:
            voxels[key].append(row)
    means = np.zeros((len(voxels), rows.shape[1]), np.float32)
    for mean, kept in zip(means, voxels.values(), strict=True):
        for row in kept:
            mean += row
        mean /= np.float32(len(kept))
    counts = torch.tensor([len(kept) for kept in voxels.values()], dtype=torch.int32)
    coords = torch.tensor(list(voxels), dtype=torch.int32).reshape(-1, 3)
    return torch.from_numpy(means), coords, counts


def cloud(count: int, columns: int = 5, seed: int = 0) -> Tensor:
    """Points in and around the small range; many share a voxel."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, columns, generator=generator) * 0.8
    points[:, 3:] *= 100
    return points


def real_sweep(test_data: Path) -> Tensor:
    file = next((test_data / "data" / "nuscenes_frame").glob("*LIDAR_TOP*.bin"))
    return torch.from_numpy(np.fromfile(file, np.float32).reshape(-1, 5))


def assert_same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("columns", [3, 4, 5, 7])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(10, 1000), (3, 1000), (1, 20), (4, 1)])
def test_bit_equal_to_the_loop(
    implementation: str, columns: int, max_points: int, max_voxels: int
) -> None:
    points = cloud(400, columns)
    arguments = (SMALL_VOXEL, SMALL_RANGE, max_points, max_voxels)
    assert_same(voxelize_hard(points, *arguments), sequential(points, *arguments))


def sequential_points(points: Tensor, *arguments: Any) -> Tensor:
    """Kept points of the loop's voxels: the points of a cell in order, the first of them."""
    voxel_size, point_cloud_range, max_points, _ = arguments
    low, size = (np.array(v, np.float32) for v in (point_cloud_range[:3], voxel_size))
    cells = np.floor((points.numpy()[:, :3] - low) / size)
    voxels = sequential(points, *arguments)[1].numpy()
    kept = torch.zeros(len(voxels), max_points, points.shape[1])
    for row, voxel in zip(kept, voxels, strict=True):
        members = points[(cells == voxel).all(1)][:max_points]
        row[: len(members)] = members
    return kept


@pytest.mark.parametrize("columns", [3, 5, 7])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(10, 1000), (3, 1000), (1, 20), (4, 1)])
def test_kept_points_bit_equal_to_the_loop(
    implementation: str, columns: int, max_points: int, max_voxels: int
) -> None:
    points = cloud(400, columns)
    arguments = (SMALL_VOXEL, SMALL_RANGE, max_points, max_voxels)
    kept, coords, count = voxelize_hard_points(points, *arguments)
    assert torch.equal(kept, sequential_points(points, *arguments))
    assert_same((coords, count), sequential(points, *arguments)[1:])


@pytest.mark.parametrize("points", [torch.zeros(0, 5), torch.full((4, 5), 99.0)])
def test_no_voxels_keep_no_points(implementation: str, points: Tensor) -> None:
    kept, coords, count = voxelize_hard_points(points, VOXEL, RANGE, 10, 100)
    assert (kept.shape, coords.shape, count.shape) == ((0, 10, 5), (0, 3), (0,))


@pytest.mark.parametrize("max_voxels", [160000, 5000])
def test_real_sweep_bit_equal_to_the_loop(
    implementation: str, test_data: Path, max_voxels: int
) -> None:
    points = real_sweep(test_data)
    mean, coords, count = voxelize_hard(points, VOXEL, RANGE, 10, max_voxels)
    assert len(coords) == min(max_voxels, 17509)
    assert_same((mean, coords, count), sequential(points, VOXEL, RANGE, 10, max_voxels))


def test_several_sweeps_same_in_every_implementation(test_data: Path) -> None:
    sweep = real_sweep(test_data)
    points = torch.cat([sweep + torch.tensor([0.37 * k, 0, 0, 0, 0]) for k in range(4)])
    arguments = (points, list(VOXEL), list(RANGE), 10, 40000)
    assert_same(
        torch.ops.anybev.voxelize_hard(*arguments),
        torch.ops.anybev.voxelize_hard_reference(*arguments),
    )


def test_rows_follow_first_appearance(implementation: str) -> None:
    points = torch.tensor([[2.5, 0.5, 0.5], [0.5, 0.5, 0.5], [2.7, 0.5, 0.5], [1.5, 0.5, 0.5]])
    _, coords, count = voxelize_hard(points, (1, 1, 1), (0, 0, 0, 3, 1, 1), 10, 10)
    assert coords[:, 0].tolist() == [2, 0, 1]
    assert count.tolist() == [2, 1, 1]


def test_full_voxels_still_take_points_after_the_voxel_cap(implementation: str) -> None:
    points = torch.tensor([[0.5], [1.5], [0.7]]) * torch.tensor([1.0, 0, 0])
    mean, coords, count = voxelize_hard(points, (1, 1, 1), (0, 0, 0, 3, 1, 1), 10, 1)
    assert coords.tolist() == [[0, 0, 0]]
    assert count.tolist() == [2]
    assert mean[0, 0] == (points[0, 0] + points[2, 0]) / 2


def test_range_limits(implementation: str) -> None:
    low, high = torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    below = torch.nextafter(high, low)
    points = torch.stack([low, high, below, torch.nextafter(low, low - 1)])
    _, coords, _ = voxelize_hard(points, VOXEL, RANGE, 10, 10)
    expected = sequential(points, VOXEL, RANGE, 10, 10)[1]
    assert coords.tolist() == expected.tolist()
    assert coords[0].tolist() == [0, 0, 0]
    assert (coords < torch.tensor([1440, 1440, 40])).all()


def test_cells_by_true_division(implementation: str) -> None:
    borders = torch.arange(1440, dtype=torch.float32) * torch.tensor(0.075) - 54
    points = torch.stack([borders, borders, torch.zeros(1440)], 1)
    expected = sequential(points, VOXEL, RANGE, 10, 2000)
    by_reciprocal = torch.floor((borders + 54) * (1 / torch.tensor(0.075)))
    assert (expected[1][:, 0] != by_reciprocal.int()[: len(expected[1])]).any()
    assert_same(voxelize_hard(points, VOXEL, RANGE, 10, 2000), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_without_a_cell_are_dropped(implementation: str, bad: float, axis: int) -> None:
    points = torch.zeros(6, 4)
    points[2, axis] = bad
    _, _, count = voxelize_hard(points, (1, 1, 1), (-1, -1, -1, 1, 1, 1), 10, 10)
    assert count.tolist() == [5]


def test_other_features_are_not_looked_at(implementation: str) -> None:
    points = torch.tensor([[0.5, 0.5, 0.5, float("nan")]])
    mean, _, count = voxelize_hard(points, (1, 1, 1), (0, 0, 0, 1, 1, 1), 10, 10)
    assert count.tolist() == [1]
    assert mean[0, 3].isnan()


@pytest.mark.parametrize("points", [torch.zeros(0, 5), torch.full((4, 5), 99.0)])
def test_no_voxels(implementation: str, points: Tensor) -> None:
    mean, coords, count = voxelize_hard(points, VOXEL, RANGE, 10, 100)
    assert (mean.shape, coords.shape, count.shape) == ((0, 5), (0, 3), (0,))
    assert (mean.dtype, coords.dtype, count.dtype) == (torch.float32, torch.int32, torch.int32)


def test_one_point(implementation: str) -> None:
    points = torch.tensor([[1.0, 2.0, 0.5, 7.0, 0.1]])
    mean, coords, count = voxelize_hard(points, VOXEL, RANGE, 10, 100)
    assert torch.equal(mean, points)
    assert coords.tolist() == [[733, 746, 27]]
    assert count.tolist() == [1]


def test_non_contiguous(implementation: str) -> None:
    wide = cloud(300, 10)
    strided = wide[::2, ::2]
    arguments = (SMALL_VOXEL, SMALL_RANGE, 3, 1000)
    assert not strided.is_contiguous()
    assert_same(voxelize_hard(strided, *arguments), sequential(strided, *arguments))


def test_threads_do_not_change_a_bit(set_threads: Callable[[int], None]) -> None:
    points = cloud(100_000)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(voxelize_hard(points, (0.05, 0.05, 0.05), (-2, -2, -2, 2, 2, 2), 5, 60000))
    assert_same(*results)


def test_autocast_changes_nothing(implementation: str) -> None:
    arguments = (cloud(50), SMALL_VOXEL, SMALL_RANGE, 3, 1000)
    expected = voxelize_hard(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(voxelize_hard(*arguments), expected)


def test_no_gradient(implementation: str) -> None:
    points = cloud(50).requires_grad_()
    outputs = voxelize_hard(points, SMALL_VOXEL, SMALL_RANGE, 3, 1000)
    assert not any(output.requires_grad for output in outputs)


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "voxelize_hard=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.voxelize_hard_reference.default
    assert _CONTRACT.implementation("cpu") == "reference"


@pytest.mark.parametrize("suffix", ["", "_reference"])
@pytest.mark.parametrize("name", ["voxelize_hard", "voxelize_hard_points"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, suffix: str, requires_grad: bool) -> None:
    points = cloud(40).requires_grad_(requires_grad)
    arguments = (points, list(SMALL_VOXEL), list(SMALL_RANGE), 3, 20)
    torch.library.opcheck(getattr(torch.ops.anybev, name + suffix).default, arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_refuses_dtypes(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="points_lidar_m must be float32, got"):
        voxelize_hard(torch.zeros(3, 5, dtype=dtype), VOXEL, RANGE, 10, 10)


def test_refuses_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="points_lidar_m must be a tensor, got ndarray"):
        voxelize_hard(np.zeros((3, 5), np.float32), VOXEL, RANGE, 10, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points_lidar_m": torch.zeros(5)}, r"points_lidar_m must be \(P, >=3\), got \(5,\)"),
        ({"points_lidar_m": torch.zeros(5, 2)}, r"must be \(P, >=3\), got \(5, 2\)"),
        ({"voxel_size": (1, 1)}, "voxel_size must be 3 positive lengths"),
        ({"voxel_size": (1, 0, 1)}, "voxel_size must be 3 positive lengths"),
        ({"point_cloud_range": (0, 0, 0, 1, 1)}, "point_cloud_range must be"),
        ({"point_cloud_range": (0, 0, 0, 1, 1, 0)}, "point_cloud_range must be"),
        ({"voxel_size": (1e-4, 1e-4, 1e-4)}, "at most 2.31 in all"),
        ({"voxel_size": (500, 1, 1)}, "at least 1 cell an axis"),
        ({"max_points": 0}, "max_points must be at least 1, got 0"),
        ({"max_voxels": -1}, "max_voxels must be at least 1, got -1"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    arguments = {
        "points_lidar_m": torch.zeros(3, 5),
        "voxel_size": VOXEL,
        "point_cloud_range": RANGE,
        "max_points": 10,
        "max_voxels": 10,
    }
    with pytest.raises(ValueError, match=message):
        voxelize_hard(**{**arguments, **change})


def test_kernel_refuses_what_the_wrapper_would_have() -> None:
    if _CONTRACT.implementation("cpu") != "native":
        pytest.skip("no compiled voxelize_hard in this installation")
    kernel, points = torch.ops.anybev.voxelize_hard, torch.zeros(3, 5)
    with pytest.raises(TypeError, match="points_lidar_m must be float32, got"):
        kernel(points.double(), list(VOXEL), list(RANGE), 10, 10)
    with pytest.raises(ValueError, match="grid is out of range"):
        kernel(points, [1e-9] * 3, list(RANGE), 10, 10)
    with pytest.raises(ValueError, match="grid has too many cells"):
        kernel(points, [1e-3] * 3, list(RANGE), 10, 10)
    with pytest.raises(ValueError, match="must be 3 and 6 numbers, got 3 and 5"):
        kernel(points, list(VOXEL), list(RANGE[:5]), 10, 10)
    with pytest.raises(ValueError, match=r"max_points must be in \[1, 2\^31\), got 0"):
        torch.ops.anybev.voxelize_hard_points(points, list(VOXEL), list(RANGE), 0, 10)
