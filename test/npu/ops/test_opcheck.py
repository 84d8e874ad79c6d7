"""Adapters keep the schemas of their operators and the layouts that their fakes promise."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu.adapters import ADAPTERS
from anybev.device.ops.sparse_neighbors import sparse_neighbors
from anybev.device.report import operator_table
from anybev.testing.fake_mx_driving import Binding

# torch knows no autograd registration of npu operators, so that one of opcheck's tests is left out.
TESTS = ("test_schema", "test_faketensor")
VOXELS = [0.3, 0.4, 1.0], [0.0, -2.0, -1.0, 3.0, 2.0, 3.0]


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(len(shape))).npu()


def _cells(count: int, *extents: int) -> Tensor:
    draw = Generator().manual_seed(0)
    columns = [torch.randint(0, n, (count,), generator=draw) for n in extents]
    return torch.unique(torch.stack(columns, 1), dim=0).int().npu()


def _sparse() -> dict[str, tuple[Any, ...]]:
    coords = _cells(40, 2, 5, 4, 3)
    plan = sparse_neighbors(coords, (5, 4, 3), 2, kernel_size=(3, 3, 3), mode="subm")
    features, weight, grad = (
        _randn(len(coords), 16),
        _randn(16, 3, 3, 3, 16),
        _randn(len(coords), 16),
    )
    geometry = [1, 5, 4, 3, 5, 4, 3, 2, 3, 3, 3, 1, 1, 1, 1, 1, 1]
    return {
        "sparse_conv": (features, weight, None, plan.payload, [], len(coords)),
        "sparse_conv_backward": (grad, features, weight, plan.payload, []),
        "sparse_conv_grad_weight": (features, grad, plan.payload, [], 27),
        "sparse_conv_payload": (coords, len(coords), geometry),
    }


def _dense() -> dict[str, tuple[Any, ...]]:
    coords = _cells(30, 2, 5, 4, 3)
    count = len(coords)
    rays, origins, depths = _randn(1, 2, 2, 3, 3), _randn(1, 2, 3), torch.arange(1.0, 5).npu()
    geometry = rays, origins, depths, [-3.0, -3.0, -2.0], [1.0, 1.0, 2.0], [6, 7, 2]
    labels = torch.tensor([0, 2, 1]).npu()
    setting = 2, 3, [8, 6], [1.0, 1.5], [0.0, 0.0], 0.1, 2
    boxes = _randn(3, 9).abs() + 0.1
    return {
        "bev_pool": (_randn(count, 8), coords, 2, [5, 4, 3]),
        "bev_pool_backward": (_randn(2, 24, 5, 4), coords, [5, 4, 3], torch.float16),
        "box_iou_rotated": (boxes[:, :5], boxes[:2, 4:], "iou"),
        "draw_heatmap": (boxes, labels, labels % 2, *setting),
        "lift_splat": (_randn(1, 2, 12, 2, 3), *geometry),
        "lift_splat_backward": (_randn(1, 16, 6, 7), _randn(1, 2, 12, 2, 3), *geometry),
        "nms_rotated": (boxes[:, :5], boxes[:, 5], 0.1),
        "points_in_boxes": (_randn(9, 4), boxes),
        "scatter_points": (_randn(count, 5), coords, "mean"),
        "voxelize_dynamic": (_randn(40, 5), *VOXELS),
        "voxelize_hard": (_randn(40, 5), *VOXELS, 3, 20),
        "voxelize_hard_points": (_randn(40, 5), *VOXELS, 3, 20),
    }


def test_every_adapter_keeps_its_schema_and_fake(mx: Binding) -> None:
    operator_table()  # declares every operator
    calls = _sparse() | _dense()
    assert set(calls) == set(ADAPTERS)
    for name, arguments in calls.items():
        before = len(mx.calls)
        operator = getattr(torch.ops.anybev, name).default
        # How many tensors a plan carries is the vendor's matter, unknown to a fake.
        checks = TESTS[:1] if name == "sparse_conv_payload" else TESTS
        torch.library.opcheck(operator, arguments, test_utils=checks)
        assert len(mx.calls) > before, name


def test_the_table_of_operators_says_vendor(mx: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    vendors = {name for name, row in operator_table().items() if row["npu"] == "vendor"}
    assert vendors == {n for n in ADAPTERS if n in operator_table()}
    monkeypatch.setenv("ANYBEV_OPS", "sparse_conv=reference")
    assert operator_table()["sparse_conv"]["npu"] == "reference"
