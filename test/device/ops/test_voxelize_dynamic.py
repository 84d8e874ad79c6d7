"""Dynamic voxelisation against the rule in numpy, and beside hard voxelisation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.device.ops.voxelize_dynamic import _CONTRACT, voxelize_dynamic
from anybev.device.ops.voxelize_hard import voxelize_hard

VOXEL = (0.075, 0.075, 0.2)
RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
GRID = (1440, 1440, 40)


def loop(points: Tensor) -> Tensor:
    """One point after the other, in float32."""
    low, size = np.array(RANGE[:3], np.float32), np.array(VOXEL, np.float32)
    rows = []
    for point in points.numpy()[:, :3]:
        with np.errstate(invalid="ignore"):
            cell = np.floor((point - low) / size)
        inside = all(0 <= c < n for c, n in zip(cell, GRID, strict=True))
        rows.append([int(c) for c in cell] if inside else [-1, -1, -1])
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, 3)


def cloud(count: int, columns: int = 5, seed: int = 0) -> Tensor:
    """Points in and around the range."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, columns, generator=generator)
    return points * torch.tensor([40.0, 40.0, 3.0, *[1.0] * (columns - 3)])


@pytest.mark.parametrize("columns", [3, 4, 5, 7])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 400])
def test_equals_the_loop(implementation: str, columns: int, count: int) -> None:
    points = cloud(count, columns)
    coords = voxelize_dynamic(points, VOXEL, RANGE)
    assert coords.dtype == torch.int32
    assert torch.equal(coords, loop(points))
    assert count < 400 or 50 < (coords[:, 0] < 0).sum() < 350


def test_real_sweep_falls_into_the_cells_of_hard_voxelisation(
    implementation: str, test_data: Path
) -> None:
    file = next((test_data / "data" / "nuscenes_frame").glob("*LIDAR_TOP*.bin"))
    points = torch.from_numpy(np.fromfile(file, np.float32).reshape(-1, 5))
    coords = voxelize_dynamic(points, VOXEL, RANGE)
    _, hard, count = voxelize_hard(points, VOXEL, RANGE, len(points), len(points))
    inside = coords[coords[:, 0] >= 0]
    ours, ours_count = torch.unique(inside, dim=0, return_counts=True)
    theirs = torch.cat([hard, count[:, None]], 1)
    order = np.lexsort(hard.numpy().T[::-1])
    assert torch.equal(torch.cat([ours, ours_count[:, None].int()], 1), theirs[order])


def test_cells_by_true_division(implementation: str) -> None:
    borders = torch.arange(1440, dtype=torch.float32) * torch.tensor(0.075) - 54
    points = torch.stack([borders, borders, torch.zeros(1440)], 1)
    assert torch.equal(voxelize_dynamic(points, VOXEL, RANGE), loop(points))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_without_a_cell_are_marked(implementation: str, bad: float, axis: int) -> None:
    points = torch.zeros(6, 4)
    points[2, axis] = bad
    coords = voxelize_dynamic(points, (1, 1, 1), (-1, -1, -1, 1, 1, 1))
    assert coords.tolist() == [[1, 1, 1]] * 2 + [[-1, -1, -1]] + [[1, 1, 1]] * 3


def test_non_contiguous(implementation: str) -> None:
    strided = cloud(301, 10)[::2, ::2]
    assert not strided.is_contiguous()
    assert torch.equal(voxelize_dynamic(strided, VOXEL, RANGE), loop(strided))


def test_threads_do_not_change_a_number(set_threads: Callable[[int], None]) -> None:
    points = cloud(100_001)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(voxelize_dynamic(points, VOXEL, RANGE))
    reference = torch.ops.anybev.voxelize_dynamic_reference(points, list(VOXEL), list(RANGE))
    assert all(torch.equal(result, reference) for result in results)


def test_autocast_changes_nothing(implementation: str) -> None:
    points = cloud(50)
    expected = voxelize_dynamic(points, VOXEL, RANGE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(voxelize_dynamic(points, VOXEL, RANGE), expected)


def test_no_gradient(implementation: str) -> None:
    assert not voxelize_dynamic(cloud(50).requires_grad_(), VOXEL, RANGE).requires_grad


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "voxelize_dynamic=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.voxelize_dynamic_reference.default


@pytest.mark.parametrize("name", ["voxelize_dynamic", "voxelize_dynamic_reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, requires_grad: bool) -> None:
    points = cloud(40).requires_grad_(requires_grad)
    operator = getattr(torch.ops.anybev, name).default
    torch.library.opcheck(operator, (points, list(VOXEL), list(RANGE)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_refuses_dtypes(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="points_lidar_m must be float32, got"):
        voxelize_dynamic(torch.zeros(3, 5, dtype=dtype), VOXEL, RANGE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points_lidar_m": torch.zeros(5)}, r"points_lidar_m must be \(P, >=3\), got \(5,\)"),
        ({"points_lidar_m": torch.zeros(5, 2)}, r"must be \(P, >=3\), got \(5, 2\)"),
        ({"voxel_size": (1, 1)}, "voxel_size must be 3 positive lengths"),
        ({"voxel_size": (1, 0, 1)}, "voxel_size must be 3 positive lengths"),
        ({"voxel_size": (1, float("inf"), 1)}, "voxel_size must be 3 positive lengths"),
        ({"point_cloud_range": (0, 0, 0, 1, 1)}, "point_cloud_range must be"),
        ({"point_cloud_range": (0, 0, 0, 1, 1, 0)}, "point_cloud_range must be"),
        ({"point_cloud_range": (0, 0, 0, 1, 1, float("inf"))}, "point_cloud_range must be"),
        ({"voxel_size": (1e-6, 1, 1)}, r"must be 1 to 2\^24 cells an axis, got 108000000 x"),
        ({"voxel_size": (500, 1, 1)}, r"must be 1 to 2\^24 cells an axis, got 0 x"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    arguments = {"points_lidar_m": cloud(3), "voxel_size": VOXEL, "point_cloud_range": RANGE}
    with pytest.raises(ValueError, match=message):
        voxelize_dynamic(**{**arguments, **change})


def test_the_kernel_trusts_no_argument() -> None:
    if _CONTRACT.implementation("cpu") != "native":
        pytest.skip("no compiled voxelize_dynamic in this installation")
    kernel, points = torch.ops.anybev.voxelize_dynamic, torch.zeros(3, 5)
    with pytest.raises(TypeError, match="points_lidar_m must be float32, got"):
        kernel(points.double(), list(VOXEL), list(RANGE))
    with pytest.raises(ValueError, match=r"points_lidar_m must be \(P, 3 or more\), got \[3, 2\]"):
        kernel(points[:, :2], list(VOXEL), list(RANGE))
    with pytest.raises(ValueError, match="must be 3 and 6 numbers, got 2 and 6"):
        kernel(points, list(VOXEL[:2]), list(RANGE))
    with pytest.raises(ValueError, match="grid is out of range"):
        kernel(points, [1e-9] * 3, list(RANGE))
