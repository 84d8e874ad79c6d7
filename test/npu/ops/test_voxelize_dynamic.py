"""voxelize_dynamic on the simulated npu: through mx_driving's contract, as on the CPU."""

import torch
from torch import Generator, Tensor

from anybev.device.ops.voxelize_dynamic import voxelize_dynamic
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same

RANGE = (0.0, -2.0, -1.0, 3.0, 2.0, 3.0)


def cells(points: Tensor) -> Tensor:
    return voxelize_dynamic(points, (0.3, 0.4, 1.0), RANGE)


def test_equals_the_cpu(mx: Binding, draw: Generator) -> None:
    points = torch.rand(300, 6, generator=draw) * 6 - 2
    points[3, 0], points[5, 2], points[9, 1], points[11, 4] = torch.nan, torch.inf, -1e30, torch.nan
    assert_same(cells, points)
    assert_same(cells, points[::3, 1:5])
    assert mx.calls == ["dynamic_voxelization"] * 2
    assert cells(points.npu()).is_contiguous()


def test_borders_and_no_point(mx: Binding) -> None:
    steps = torch.arange(0, 40, dtype=torch.float32)
    assert_same(cells, torch.stack([steps * 0.3 / 4, steps * 0.1 - 2, steps * 0.1 - 1], 1))
    assert_same(cells, torch.zeros(0, 4))
    assert mx.calls == ["dynamic_voxelization"]
