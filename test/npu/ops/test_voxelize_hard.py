"""voxelize_hard on the simulated npu: through mx_driving's contract, as on the CPU."""

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops.voxelize_hard import voxelize_hard, voxelize_hard_points
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same

RANGE = (0.0, -2.0, -1.0, 3.0, 2.0, 3.0)
SIZE = (0.3, 0.4, 1.0)


def cloud(draw: Generator, count: int, features: int = 5) -> Tensor:
    return torch.rand(count, features, generator=draw) * 6 - 2


@pytest.mark.parametrize("voxelize", [voxelize_hard, voxelize_hard_points])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 3), (4, 20), (1000, 1000)])
def test_equals_the_cpu(
    mx: Binding, draw: Generator, voxelize: object, max_points: int, max_voxels: int
) -> None:
    points = cloud(draw, 200)
    points[3, 0], points[5, 2], points[9, 1], points[11, 4] = torch.nan, torch.inf, -1e30, torch.nan
    assert_same(lambda p: voxelize(p, SIZE, RANGE, max_points, max_voxels), points)
    assert mx.calls == ["hard_voxelize"]


def test_points_on_borders_fall_as_the_division_says(mx: Binding) -> None:
    """The kernel's own cells, by the reciprocal, are others for many of these points."""
    steps = torch.arange(0, 300, dtype=torch.float32)
    points = torch.stack([steps * 0.01, steps * 0, steps * 0], 1)
    sizes = (0.01, 4.0, 4.0)
    assert_same(lambda p: voxelize_hard(p, sizes, RANGE, 5, 400), points)
    reciprocal = torch.floor(points[:, 0] * (1 / torch.tensor(0.01)))
    assert (reciprocal != torch.floor(points[:, 0] / torch.tensor(0.01))).any()


@pytest.mark.parametrize("points", [cloud(Generator(), 40, 8)[:, 1:6], cloud(Generator(), 1, 3)])
def test_strides_and_few_columns(mx: Binding, points: Tensor) -> None:
    assert_same(lambda p: voxelize_hard(p, SIZE, RANGE, 3, 50), points)


def test_nothing_inside_and_nothing_at_all(mx: Binding, draw: Generator) -> None:
    assert_same(lambda p: voxelize_hard(p, SIZE, RANGE, 3, 50), cloud(draw, 9) + 100)
    assert mx.calls == ["hard_voxelize"]
    assert_same(lambda p: voxelize_hard(p, SIZE, RANGE, 3, 50), cloud(draw, 0))
    assert mx.calls == ["hard_voxelize"]


@pytest.mark.parametrize(
    ("size", "max_points", "reason"),
    [
        ((3 / 2048, 0.4, 1.0), 1001, "max_points must be at most 1000, got 1001"),
        ((3 / 2049, 0.4, 1.0), 5, r"at most \(2048, 2048, 256\), got \(2049, 10, 4\)"),
        ((0.3, 0.4, 4 / 257), 5, r"at most \(2048, 2048, 256\), got \(10, 10, 257\)"),
    ],
)
def test_limits(
    mx: Binding, draw: Generator, size: tuple[float, ...], max_points: int, reason: str
) -> None:
    points = cloud(draw, 30)
    with pytest.warns(KernelFallbackWarning, match=reason):
        assert_same(lambda p: voxelize_hard(p, size, RANGE, max_points, 20), points)
    assert mx.calls == []


def test_the_largest_grid_is_taken(mx: Binding, draw: Generator) -> None:
    size = (3 / 2048, 4 / 2048, 4 / 256)
    assert_same(lambda p: voxelize_hard(p, size, RANGE, 3, 50), cloud(draw, 60))
    assert mx.calls == ["hard_voxelize"]
