"""Every name that a compiled mmcv answers on the CPU, against that compiled mmcv."""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from anybev.patches.ext._module import SuppliedExt
from anybev.patches.ext._table import SUPPLIED
from anybev.patches.host.patch_mmcv_ext_gaps import COMPILED_ON_CPU

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("mmcv") is None or importlib.util.find_spec("mmcv._ext") is None,
        reason="mmcv is not installed with its compiled extension",
    ),
    pytest.mark.filterwarnings("default"),
]


def rand(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(*shape) * (high - low) + low


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def corners(count: int) -> Tensor:
    low = rand(count, 2, high=20)
    return torch.cat([low, low + rand(count, 2, low=1, high=10)], 1)


def rotated(count: int) -> Tensor:
    return torch.cat(
        [rand(count, 2, high=10), rand(count, 2, low=1, high=5), rand(count, 1, low=-4, high=4)], 1
    )


def quads(count: int) -> Tensor:
    x, y, w, h = rand(4, count, low=1, high=6)
    return torch.stack([x, y, x + w, y, x + w, y + h, x, y + h], 1)


def rois(count: int) -> Tensor:
    return torch.cat([torch.randint(0, 2, (count, 1)).float(), corners(count)], 1)


def bbox_overlaps(ops: ModuleType) -> Any:
    a, b = corners(7), corners(5)
    modes = [ops.bbox_overlaps(a, b, mode=m, offset=o) for m in ("iou", "iof") for o in (0, 1)]
    return [*modes, ops.bbox_overlaps(a, a.flip(0), aligned=True)]


def box_iou_rotated(ops: ModuleType) -> Any:
    a, b = rotated(30), rotated(20)
    b[:5] = a[:5]
    return [
        ops.box_iou_rotated(a, b, mode=mode, clockwise=clockwise)
        for mode in ("iou", "iof")
        for clockwise in (True, False)
    ] + [ops.box_iou_rotated(a, a.flip(0), aligned=True)]


def box_iou_quadri(ops: ModuleType) -> Any:
    return [ops.box_iou_quadri(quads(9), quads(6)), ops.box_iou_quadri(quads(5), quads(5), "iof")]


def nms(ops: ModuleType) -> Any:
    boxes, scores = corners(200), rand(200)
    kept = [ops.nms(boxes, scores, iou_threshold=t, offset=o) for t in (0.2, 0.6) for o in (0, 1)]
    return [*kept, ops.nms(boxes, scores, 0.5, score_threshold=0.3, max_num=10)]


def softnms(ops: ModuleType) -> Any:
    boxes, scores = corners(60), rand(60)
    return [
        ops.soft_nms(boxes, scores, iou_threshold=0.3, method=m)
        for m in ("naive", "linear", "gaussian")
    ]


def nms_match(ops: ModuleType) -> Any:
    return ops.nms_match(torch.cat([corners(40), rand(40, 1)], 1), 0.3)


def nms_rotated(ops: ModuleType) -> Any:
    boxes, scores, labels = rotated(120), rand(120), torch.randint(0, 3, (120,))
    return [ops.nms_rotated(boxes, scores, 0.3), ops.nms_rotated(boxes, scores, 0.1, labels)]


def nms_quadri(ops: ModuleType) -> Any:
    return ops.nms_quadri(quads(50), rand(50), 0.3)


def points_in_boxes_cpu(ops: ModuleType) -> Any:
    boxes = torch.cat([rand(2, 6, 3, high=8), rand(2, 6, 3, low=1, high=4), rand(2, 6, 1)], 2)
    return ops.points_in_boxes_cpu(rand(2, 500, 3, high=9), boxes)


def voxelization(ops: ModuleType) -> Any:
    points = rand(3000, 5, low=-6, high=6)
    size, limits = [0.5, 0.25, 1.0], [-5.0, -5.0, -3.0, 5.0, 5.0, 3.0]
    hard = [
        ops.Voxelization(size, limits, most, voxels)(points)
        for most, voxels in ((5, 20000), (2, 100))
    ]
    return [*hard, ops.Voxelization(size, limits, -1, -1)(points)]


def roi_align(ops: ModuleType) -> Any:
    features, boxes = leaf(2, 4, 24, 30), rois(9)
    results = []
    for ratio in (0, 2):
        for pool in ("avg", "max"):
            for aligned in (True, False):
                out = ops.roi_align(features, boxes, (3, 4), 0.5, ratio, pool, aligned)
                results += [out, torch.autograd.grad(out.pow(2).sum(), features)[0]]
    return results


def roi_align_rotated(ops: ModuleType) -> Any:
    features, boxes = leaf(2, 4, 24, 30), torch.cat([rois(6)[:, :1], rotated(6) * 2], 1)
    results = []
    for clockwise in (True, False):
        out = ops.roi_align_rotated(features, boxes, (3, 4), 0.5, 2, True, clockwise)
        results += [out, torch.autograd.grad(out.pow(2).sum(), features)[0]]
    return results


def deform_conv2d(ops: ModuleType) -> Any:
    x, offset, weight = leaf(3, 4, 9, 11), leaf(3, 2 * 2 * 9, 5, 6), leaf(6, 2, 3, 3)
    out = ops.deform_conv2d(x, offset, weight, 2, 1, 1, 2, 2, False, 3)
    return [out, *torch.autograd.grad(out.pow(2).sum(), (x, offset, weight))]


def modulated_deform_conv2d(ops: ModuleType) -> Any:
    x, offset, mask = leaf(2, 4, 9, 11), leaf(2, 18, 9, 11), leaf(2, 9, 9, 11)
    weight, bias = leaf(6, 2, 3, 3), leaf(6)
    out = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 2, 1)
    return [out, *torch.autograd.grad(out.pow(2).sum(), (x, offset, mask, weight, bias))]


def psa_mask(ops: ModuleType) -> Any:
    results = []
    for kind in ("collect", "distribute"):
        x = leaf(2, 35, 4, 6)
        out = ops.PSAMask(kind, (5, 7))(x)
        results += [out, torch.autograd.grad(out.pow(2).sum(), x)[0]]
    return results


def active_rotated_filter(ops: ModuleType) -> Any:
    filters = leaf(4, 3, 8, 3, 3)
    turns = torch.stack([torch.randperm(72) + 1 for _ in range(8)], 1).view(8, 3, 3, 8).int()
    out = ops.active_rotated_filter(filters, turns)
    return [out, torch.autograd.grad(out.pow(2).sum(), filters)[0]]


def rotated_feature_align(ops: ModuleType) -> Any:
    features, boxes = leaf(2, 3, 6, 7), rand(2, 6, 7, 5, low=-5, high=55)
    results = []
    for points in (1, 5):
        out = ops.rotated_feature_align(features, boxes, 0.125, points)
        results += [out, torch.autograd.grad(out.pow(2).sum(), features)[0]]
    return results


# (submodule of mmcv.ops, what is called, names of the extension behind it)
CASES: list[tuple[str, Callable[[ModuleType], Any], str]] = [
    ("bbox", bbox_overlaps, "bbox_overlaps"),
    ("box_iou_rotated", box_iou_rotated, "box_iou_rotated"),
    ("box_iou_quadri", box_iou_quadri, "box_iou_quadri"),
    ("nms", nms, "nms"),
    ("nms", softnms, "softnms"),
    ("nms", nms_match, "nms_match"),
    ("nms", nms_rotated, "nms_rotated"),
    ("nms", nms_quadri, "nms_quadri"),
    ("points_in_boxes", points_in_boxes_cpu, "points_in_boxes_cpu_forward"),
    ("voxelize", voxelization, "hard_voxelize_forward dynamic_voxelize_forward"),
    ("roi_align", roi_align, "roi_align_forward roi_align_backward"),
    (
        "roi_align_rotated",
        roi_align_rotated,
        "roi_align_rotated_forward roi_align_rotated_backward",
    ),
    (
        "deform_conv",
        deform_conv2d,
        "deform_conv_forward deform_conv_backward_input deform_conv_backward_parameters",
    ),
    (
        "modulated_deform_conv",
        modulated_deform_conv2d,
        "modulated_deform_conv_forward modulated_deform_conv_backward",
    ),
    ("psa_mask", psa_mask, "psamask_forward psamask_backward"),
    (
        "active_rotated_filter",
        active_rotated_filter,
        "active_rotated_filter_forward active_rotated_filter_backward",
    ),
    (
        "rotated_feature_align",
        rotated_feature_align,
        "rotated_feature_align_forward rotated_feature_align_backward",
    ),
]
# Answer with texts about the build.
_FACTS = {"get_compiler_version", "get_compiling_cuda_version"}


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach().float()]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in flat(part)]
    return [torch.as_tensor(value).float()]


@pytest.mark.parametrize(("file", "call", "names"), CASES)
def test_equals_the_compiled_operator(
    file: str,
    call: Callable[[ModuleType], Any],
    names: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ops = importlib.import_module("mmcv.ops")
    supplied = SuppliedExt().open()
    assert set(names.split()) <= set(SUPPLIED)
    results = []
    for module in (importlib.import_module("mmcv._ext"), supplied):
        user = importlib.import_module(f"mmcv.ops.{file}")
        monkeypatch.setattr(user, "ext_module", module)
        torch.manual_seed(0)
        results.append(flat(call(ops)))
    theirs, ours = results
    assert len(theirs) == len(ours)
    for expected, got in zip(theirs, ours, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_no_name_is_left_out() -> None:
    compared = {name for _, _, names in CASES for name in names.split()}
    assert compared >= (COMPILED_ON_CPU & set(SUPPLIED)) - _FACTS
