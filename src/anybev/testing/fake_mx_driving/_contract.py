"""Whether the wheel's binding takes a call: arity, types, devices, dtypes, limits."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class ContractError(Exception):
    """A call that mx_driving, as its wheel and documentation describe it, does not take."""


@cache
def contract() -> dict[str, Any]:
    """What was read from the wheel (written by tools/mx_driving_contract.py)."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("contract.json").read_text())
    return found


def need(kept: bool, name: str, what: str) -> None:
    """Raise ContractError unless ``kept``."""
    if not kept:
        raise ContractError(f"{name}: {what}")


def _fits(kind: str, value: object) -> bool:
    if kind.startswith("Optional["):
        return value is None or _fits(kind[9:-1], value)
    if kind.lower().startswith(("tuple[", "list[")):
        inner = "float" if "float" in kind else "int"
        return isinstance(value, list | tuple) and all(_fits(inner, v) for v in value)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, {"Tensor": Tensor, "bool": bool, "str": str}[kind])


def _check_dtypes(name: str, args: tuple[Any, ...]) -> None:
    if name not in contract()["kernels"]:
        return
    kernel, places = contract()["kernels"][name]
    columns = contract()["dtypes"][kernel]
    given = [
        (str(args[place].dtype).removeprefix("torch."), allowed)
        for place, allowed in zip(places, columns, strict=False)
        if isinstance(args[place], Tensor)
    ]
    together = range(len(columns[0]))
    dtypes = [dtype for dtype, _ in given]
    need(
        any(all(dtype == allowed[i] for dtype, allowed in given) for i in together),
        name,
        f"kernel {kernel} takes no {dtypes}",
    )


def check_call(name: str, args: tuple[Any, ...]) -> None:
    """Raise ContractError unless the binding ``name`` takes ``args``."""
    kinds = contract()["bindings"][name]["arguments"]
    need(len(args) == len(kinds), name, f"{len(args)} arguments, the wheel takes {len(kinds)}")
    for place, (kind, value) in enumerate(zip(kinds, args, strict=True)):
        need(_fits(kind, value), name, f"argument {place} is {value!r:.60}, must be {kind}")
        if isinstance(value, Tensor) and value.numel():
            need(value.device.type == "npu", name, f"argument {place} is on {value.device}")
    _check_dtypes(name, args)
    if name in LIMITS:
        LIMITS[name](name, *args)


def _within(name: str, what: str, values: Tensor | None, size: int) -> None:
    if values is not None and values.numel():
        low, high = int(values.min()), int(values.max())
        need(low >= 0 and high < size, name, f"{what} must be in [0, {size}), got {low} to {high}")


def _pool(name: str, depth: Any, feat: Tensor, rd: Any, rf: Any, cell: Tensor, *s: int) -> None:
    channels = feat.shape[-1]
    need(channels % 8 == 0 and channels <= 360, name, f"{channels} channels")
    need(math.prod(s) * channels <= 1 << 31, name, f"a map of {s} x {channels}")
    need(cell.dim() == 1 and len(cell) > 0, name, f"ranks_bev of shape {tuple(cell.shape)}")
    _within(name, "ranks_bev", cell, math.prod(s))
    if depth is None:
        need(feat.dim() == 2 and len(feat) == len(cell), name, f"feat {tuple(feat.shape)}")
        return
    need(depth.dim() == feat.dim() == 5, name, "depth and feat must have 5 axes")
    b, n, d, h, w = depth.shape
    need(feat.shape[:4] == (b, n, h, w), name, f"feat {tuple(feat.shape)} of depth {depth.shape}")
    need(len(rd) == len(rf) == len(cell), name, "ranks must be of one length")
    _within(name, "ranks_depth", rd, b * n * d * h * w)
    _within(name, "ranks_feat", rf, b * n * h * w)


def _pool_backward(name: str, grad: Tensor, *rest: Any) -> None:
    need(grad.dim() == 5 and grad.is_contiguous(), name, "grad must be (B, D, H, W, C), packed")
    _pool(name, *rest, *grad.shape[:4])


def _hard_voxelize(
    name: str, points: Tensor, sizes: Any, bounds: Any, max_points: int, *rest: Any
) -> None:
    need(points.dim() == 2 and points.numel() > 0, name, "points must be (N, F), N > 0")
    need(max_points <= 1000, name, f"max_points {max_points}")
    cells = [round((h - lo) / s) for lo, h, s in zip(bounds[:3], bounds[3:], sizes, strict=True)]
    packed = all(n <= most for n, most in zip(cells, (2048, 2048, 256), strict=True))
    need(packed, name, f"a grid of {cells} cells does not pack into 11 + 11 + 8 bits")


def _point_to_voxel(name: str, points: Tensor, sizes: Any, *rest: Any) -> None:
    if not sizes:
        for column, most in zip(points.unbind(1), (2048, 2048, 256), strict=True):
            _within(name, "a coordinate", column, most)


def _unique_voxel(name: str, voxels: Tensor) -> None:
    need(voxels.dim() == 1 and voxels.numel() > 0, name, f"voxels {tuple(voxels.shape)}")
    need(voxels.dtype in (torch.int32, torch.float32), name, f"voxels {voxels.dtype}")
    need(int(voxels.max()) < 1 << 30, name, "a voxel of 2^30 or more")


def _dynamic_scatter(name: str, feats: Tensor, coors: Tensor, *rest: Any) -> None:
    need(coors.dim() == 2 and coors.shape[1] == 3, name, f"coors {tuple(coors.shape)}")
    need(len(feats) == len(coors) and feats.shape[1] <= 2048, name, f"feats {tuple(feats.shape)}")


def _subm(name: str, feat: Tensor, weight: Tensor, coords: Tensor, *rest: Any) -> None:
    kernel, cin, cout = rest[3], rest[4], rest[5]
    need(all(k in (1, 3) for k in kernel), name, f"kernel {kernel}")
    need(tuple(weight.shape) == (*kernel, cin, cout), name, f"weight {tuple(weight.shape)}")
    need(tuple(feat.shape) == (len(coords), cin), name, f"features {tuple(feat.shape)}")
    need(coords.is_contiguous() and coords.shape[1] == 4, name, "indices must be (N, 4), packed")


def _weighted(name: str, feat: Tensor, weight: Tensor) -> None:
    need(weight.dim() == 5 and weight.is_contiguous(), name, "weight must be packed, 5 axes")
    need(feat.shape[1] == weight.shape[3], name, f"{feat.shape[1]} channels, weight {weight.shape}")


def _subm_grad(name: str, feat: Tensor, weight: Tensor, grad: Tensor, *rest: Any) -> None:
    _weighted(name, feat, weight)
    need(grad.shape[1] == weight.shape[4], name, f"grad {tuple(grad.shape)}")


def _sparse_conv3d(
    name: str, coords: Tensor, kernel: Any, stride: Any, padding: Any, out: int, shape: Any, b: int
) -> None:
    need(out % 8 == 0 and out <= 1024, name, f"{out} output channels")
    need(all(1 <= k <= 3 for k in kernel), name, f"kernel {kernel}")
    need(coords.shape[1] == 4 and coords.is_contiguous(), name, "indices must be (N, 4), packed")


def _matmul(name: str, feat: Tensor, weight: Tensor, offset: Tensor, *rest: Any) -> None:
    _weighted(name, feat, weight)
    need(len(offset) > 1, name, "no output row")
    need(weight.shape[4] % 8 == 0, name, f"{weight.shape[4]} output channels")


def _conv_grad(
    name: str, order: Tensor, offset: Tensor, feat: Tensor, weight: Tensor, grad: Tensor
) -> None:
    _weighted(name, feat, weight)
    need(len(grad) + 1 == len(offset) > 1, name, f"{len(offset)} offsets of {len(grad)} rows")
    both = feat.shape[1] % 16 == 0 == grad.shape[1] % 16
    need(both, name, f"{feat.shape[1]} and {grad.shape[1]} channels")


def _inverse(name: str, feat: Tensor, *rest: Any) -> None:
    channels = rest[-1]
    need(channels == feat.shape[1], name, f"{channels} channels of {tuple(feat.shape)}")
    need(channels % 8 == 0 and channels <= 1024, name, f"{channels} channels")


def _nms(name: str, boxes: Tensor, threshold: float) -> None:
    need(boxes.dim() == 2 and boxes.shape[1] == 7, name, f"boxes {tuple(boxes.shape)}")
    need(0 < len(boxes) < 1 << 15, name, f"{len(boxes)} boxes, kept ones are int16")


def _iou(name: str, a: Tensor, b: Tensor, *rest: Any) -> None:
    need(a.shape[1] == b.shape[1] == 5, name, f"boxes {tuple(a.shape)}, {tuple(b.shape)}")
    need(len(a) * len(b) <= 900_000_000, name, f"{len(a)} x {len(b)} pairs")


def _points_in_boxes(name: str, boxes: Tensor, points: Tensor) -> None:
    need(boxes.dim() == 3 and boxes.shape[2] == 7, name, f"boxes {tuple(boxes.shape)}")
    need(points.dim() == 3 and points.shape[2] == 3, name, f"points {tuple(points.shape)}")
    need(len(boxes) == len(points), name, "boxes and points must be of one batch")


def _gaussian(name: str, boxes: Tensor, *rest: Any) -> None:
    need(boxes.dim() == 2 and boxes.shape[1] == 9, name, f"boxes {tuple(boxes.shape)}")
    need(len(boxes) > 0, name, "no box")


def _draw(name: str, mask: Tensor, classes: Tensor, centre: Tensor, *rest: Any) -> None:
    count = len(classes)
    need(tuple(centre.shape) == (2, count), name, f"centres {tuple(centre.shape)}, must be (2, n)")
    need(len(mask) >= count, name, f"mask of {len(mask)} for {count}")
    need(max(rest[1:3]) <= 1024, name, f"a map of {rest[1:3]}")


LIMITS: dict[str, Callable[..., None]] = {
    "hard_voxelize": _hard_voxelize,
    "nms3d": _nms,
    "npu_bev_pool_v3": _pool,
    "npu_bev_pool_v3_backward": _pool_backward,
    "npu_box_iou_rotated": _iou,
    "npu_draw_gaussian_to_heatmap": _draw,
    "npu_dynamic_scatter": _dynamic_scatter,
    "npu_gaussian": _gaussian,
    "npu_points_in_box_all": _points_in_boxes,
    "npu_sparse_conv3d": _sparse_conv3d,
    "npu_sparse_conv3d_grad": _conv_grad,
    "npu_sparse_inverse_conv3d": _inverse,
    "npu_sparse_matmul": _matmul,
    "npu_subm_sparse_conv3d_arch35": _subm,
    "npu_subm_sparse_conv3d_grad_arch35": _subm_grad,
    "npu_subm_sparse_conv3d_grad_v2": _subm_grad,
    "npu_subm_sparse_conv3d_v3": _subm,
    "point_to_voxel": _point_to_voxel,
    "unique_voxel": _unique_voxel,
}
