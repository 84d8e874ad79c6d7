"""Deliberate mistakes in adapters: the contract or the comparison with the CPU finds it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.ops.bev_pool import bev_pool
from anybev.device.ops.box_iou_rotated import box_iou_rotated
from anybev.device.ops.draw_heatmap import draw_heatmap
from anybev.device.ops.lift_splat import lift_splat
from anybev.device.ops.nms_rotated import nms_rotated
from anybev.device.ops.points_in_boxes import points_in_boxes
from anybev.device.ops.scatter_points import scatter_points
from anybev.device.ops.sparse_conv import sparse_conv
from anybev.device.ops.sparse_neighbors import sparse_neighbors
from anybev.device.ops.voxelize_dynamic import voxelize_dynamic
from anybev.device.ops.voxelize_hard import voxelize_hard
from anybev.testing.fake_mx_driving import Binding, ContractError
from anybev.testing.side_by_side import assert_same

RANGE = (0.0, -2.0, -1.0, 3.0, 2.0, 3.0)


def _draw() -> Generator:
    return Generator().manual_seed(1)


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_draw())


def _cells(count: int, *extents: int) -> Tensor:
    draw = _draw()
    return torch.stack([torch.randint(0, n, (count,), generator=draw) for n in extents], 1).int()


def bev_pool_case(dtype: torch.dtype = torch.float32, channels: int = 8) -> None:
    features = _randn(60, channels).to(dtype).requires_grad_()
    assert_same(lambda f, c: bev_pool(f, c, 2, (5, 3, 2)), features, _cells(60, 2, 5, 3, 2))


def lift_splat_case() -> None:
    logits, rays = _randn(2, 2, 12, 2, 3).requires_grad_(), _randn(2, 2, 2, 3, 3)
    geometry = _randn(2, 2, 3), torch.arange(1.0, 5)
    setting = (-3.0, -4.0, -2.0), (1.0, 1.0, 2.0), (7, 9, 2)
    assert_same(lambda *t: lift_splat(*t, *setting), logits, rays, *geometry)


def sparse_case(mode: str, cin: int, cout: int) -> None:
    coords = torch.unique(_cells(40, 2, 5, 4, 3), dim=0)
    setting = {} if mode == "subm" else {"stride": (2, 2, 2), "padding": (1, 1, 1)}

    def convolve(features: Tensor, weight: Tensor, coords: Tensor) -> Tensor:
        kind = "subm" if mode == "subm" else "strided"
        plan = sparse_neighbors(coords, (5, 4, 3), 2, kernel_size=(3, 3, 3), mode=kind, **setting)
        if mode == "inverse":
            pooled = sparse_conv(features, weight, plan)
            turned = weight.permute(4, 1, 2, 3, 0).contiguous()
            return sparse_conv(pooled, turned, plan.inverse())
        return sparse_conv(features, weight, plan)

    features = _randn(len(coords), cin).requires_grad_()
    assert_same(convolve, features, _randn(cout, 3, 3, 3, cin).requires_grad_(), coords)


def heatmap_case() -> None:
    boxes, draw = _randn(30, 7).abs() * 3, _draw()
    labels, samples = (torch.randint(0, n, (30,), generator=draw) for n in (3, 2))
    setting = {"grid": (8, 6), "cell_size_m": (1.0, 1.5), "origin_m": (0.0, 0.0)}
    assert_same(
        lambda b, n, s: draw_heatmap(b, n, s, batch_size=2, num_classes=3, **setting),
        boxes,
        labels,
        samples,
    )


def iou_case() -> None:
    boxes = _randn(9, 5).abs() + 0.1
    assert_same(box_iou_rotated, boxes, boxes.flip(0))


def nms_case() -> None:
    boxes = _randn(40, 5).abs() + 0.1
    assert_same(lambda b, s: nms_rotated(b, s, 0.1), boxes, _randn(40).round())


def points_case() -> None:
    boxes = torch.tensor([[0.5, 0.25, -1.0, 2.0, 1.0, 3.0, 0.0], [0.0, 0, 0, 9, 1, 2, 0.5]])
    points = torch.cat([_randn(50, 3), torch.tensor([[1.5, 0.25, 0.0], [0.5, -0.25, 1.0]])])
    assert_same(points_in_boxes, points, boxes)


def scatter_case(dtype: torch.dtype = torch.float32) -> None:
    coords = _cells(40, 3, 300, 4) - 1
    assert_same(lambda f, c: scatter_points(f, c, "max"), _randn(40, 6).to(dtype), coords)


def dynamic_case() -> None:
    points = _randn(40, 4)
    points[3, 1] = torch.nan
    assert_same(lambda p: voxelize_dynamic(p, (0.3, 0.4, 1.0), RANGE), points)


def hard_case() -> None:
    steps = torch.arange(0, 300, dtype=torch.float32) * 0.01
    points = torch.stack([steps, steps * 0, steps * 0, steps], 1)
    assert_same(lambda p: voxelize_hard(p, (0.01, 0.4, 1.0), RANGE, 3, 400), points)


HALF = torch.float16
# Module, what is written there, what a hurried hand would write, the call that must fail, how.
MISTAKES: dict[str, tuple[str, str, str, Callable[[], None], type[Exception]]] = {
    "geometry columns swapped": (
        "bev_pool",
        "[x, y * nz + z, torch.zeros_like(z), b]",
        "[y * nz + z, x, torch.zeros_like(z), b]",
        bev_pool_case,
        ContractError,
    ),
    "batch column first": (
        "bev_pool",
        "[x, y * nz + z, torch.zeros_like(z), b]",
        "[b, x, y * nz + z, torch.zeros_like(z)]",
        bev_pool_case,
        ContractError,
    ),
    "map not turned back": (
        "bev_pool",
        "rows.flatten(3).permute(0, 3, 1, 2)",
        "rows.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)",
        bev_pool_case,
        AssertionError,
    ),
    "no cast to float32": (
        "bev_pool",
        "features.float().contiguous()",
        "features.contiguous()",
        lambda: bev_pool_case(HALF),
        ContractError,
    ),
    "ranks in int64": (
        "bev_pool",
        "linear_cells(coords, batch_size, grid).int()",
        "linear_cells(coords, batch_size, grid)",
        bev_pool_case,
        ContractError,
    ),
    "limit of channels not asked for": (
        "bev_pool",
        "limits.require_pool(features.shape[1], batch_size, grid)",
        "pass",
        lambda: bev_pool_case(channels=12),
        ContractError,
    ),
    "feature ranks of the first picture": (
        "lift_splat",
        "image * pixels + point % pixels",
        "point % pixels",
        lift_splat_case,
        AssertionError,
    ),
    "softmax without its gradient": (
        "lift_splat",
        "grad_weight - (weight * grad_weight).sum(2, keepdim=True)",
        "grad_weight",
        lift_splat_case,
        AssertionError,
    ),
    "weight layout of another library": (
        "sparse_conv",
        "permute(1, 2, 3, 4, 0)",
        "permute(1, 2, 3, 0, 4)",
        lambda: sparse_case("subm", 16, 32),
        ContractError,
    ),
    "weight layout of another library, square": (
        "sparse_conv",
        "permute(1, 2, 3, 4, 0)",
        "permute(1, 2, 3, 0, 4)",
        lambda: sparse_case("subm", 16, 16),
        AssertionError,
    ),
    "weight gradient in their layout": (
        "sparse_conv",
        "return weight.permute(4, 0, 1, 2, 3)",
        "return weight.permute(3, 0, 1, 2, 4)",
        lambda: sparse_case("strided", 16, 16),
        AssertionError,
    ),
    "kernel axes reversed": (
        "sparse_conv",
        "permute(1, 2, 3, 4, 0)",
        "permute(3, 2, 1, 4, 0)",
        lambda: sparse_case("strided", 16, 16),
        AssertionError,
    ),
    "gradients with 8 channels": (
        "sparse_conv",
        "step = limits.GRADIENT_CHANNEL_STEP",
        "step = limits.CHANNEL_STEP",
        lambda: sparse_case("strided", 8, 8),
        ContractError,
    ),
    "inverse gradient with the forward's weight": (
        "sparse_conv",
        "theirs.transpose(3, 4).contiguous()",
        "theirs",
        lambda: sparse_case("inverse", 16, 16),
        AssertionError,
    ),
    "classes from 0": (
        "draw_heatmap",
        "num_classes + labels + 1,",
        "num_classes + labels,",
        heatmap_case,
        AssertionError,
    ),
    "centres as they came": (
        "draw_heatmap",
        "centre.t().contiguous()",
        "centre",
        heatmap_case,
        ContractError,
    ),
    "x and y not exchanged": (
        "draw_heatmap",
        "[y, x, torch.zeros_like(x), dy, dx]",
        "[x, y, torch.zeros_like(x), dx, dy]",
        heatmap_case,
        AssertionError,
    ),
    "angles the other way": (
        "box_iou_rotated",
        "kernel_mode, False, True)",
        "kernel_mode, False, False)",
        iou_case,
        AssertionError,
    ),
    "scores in place of ranks": (
        "nms_rotated",
        "nms3d(ranked, ranks, iou_threshold)",
        "nms3d(ranked, ranks * 0, iou_threshold).flip(0)",
        nms_case,
        AssertionError,
    ),
    "points before boxes": (
        "points_in_boxes",
        "points_in_boxes_all(boxes[None], points[None])",
        "points_in_boxes_all(points[None], boxes[None])",
        points_case,
        ContractError,
    ),
    "faces left out": ("points_in_boxes", "1 + 2.0**-23", "1.0", points_case, AssertionError),
    "rows without a voxel kept": (
        "scatter_points",
        "index = (coords >= 0).all(1).nonzero().squeeze(1)",
        "index = (coords >= -9).all(1).nonzero().squeeze(1)",
        scatter_case,
        AssertionError,
    ),
    "half features to a float kernel": (
        "scatter_points",
        "features.float()[index]",
        "features[index]",
        lambda: scatter_case(HALF),
        ContractError,
    ),
    "keywords to a positional function": (
        "voxelize_dynamic",
        'True, "XYZ")',
        'True, layout="XYZ")',
        dynamic_case,
        TypeError,
    ),
    "layout of another library": (
        "voxelize_hard",
        'max_voxels, True, "XYZ"',
        'max_voxels, True, "ZYX"',
        hard_case,
        AssertionError,
    ),
    "a cap as a float": (
        "voxelize_hard",
        "max_points, max_voxels, True",
        "float(max_points), max_voxels, True",
        hard_case,
        ContractError,
    ),
    "cells by the reciprocal": (
        "voxelize_hard",
        "middle = torch.where(inside[:, None], cell + 0.5, -1.0)",
        "middle = (points_lidar_m[:, :3] - points_lidar_m.new_tensor(point_cloud_range[:3])) * "
        "(1 / points_lidar_m.new_tensor(voxel_size))",
        hard_case,
        AssertionError,
    ),
}

# Their calls go to the reference, with a warning, when the adapter is right.
BEYOND_LIMITS = ("limit of channels not asked for", "gradients with 8 channels")


def mutant(name: str, right: str, wrong: str) -> ModuleType:
    """An adapter's module with one mistake."""
    path = Path(__file__).parents[3] / f"device/npu/ops/{name}.py"
    source = path.read_text()
    assert source.count(right) >= 1, f"{name} does not say {right!r} any more"
    module = ModuleType(f"anybev.device.npu.ops.{name}")
    exec(compile(source.replace(right, wrong), str(path), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mx: Binding, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    name, right, wrong, exercise, found = MISTAKES[mistake]
    key = f"anybev.device.npu.ops.{name}"
    monkeypatch.setitem(sys.modules, key, mutant(name, right, wrong))
    with pytest.raises(found):
        exercise()
    if mistake not in BEYOND_LIMITS:
        monkeypatch.setitem(sys.modules, key, mutant(name, right, right))
        exercise()
        assert mx.calls
