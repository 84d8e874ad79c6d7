"""mx_driving's Python functions in our words, for where the wheel is not at hand.

Each takes its arguments as the wheel's does: those that are ``Function.apply`` there refuse
keywords.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from anybev.testing.fake_mx_driving._contract import contract, need


def refusing_keywords(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, without keywords where it is ``Function.apply``: not all torch refuse them."""
    if contract()["functions"][name]["keywords"]:
        return function

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            raise TypeError(f"{name}: apply() takes no keyword arguments")
        return function(*args)

    return call


def _signed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` behind the wheel's signature."""
    what = contract()["functions"][name]
    parameters, required = what["parameters"], sum(len(p) == 1 for p in what["parameters"])
    names = [p[0] for p in parameters]

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        extra = [k for k in kwargs if k not in names[len(args) :]]
        need(not extra, name, f"no parameter {extra}")
        count = len(args) + len(kwargs)
        need(required <= count <= len(names), name, f"{count} arguments, the wheel has {names}")
        return function(*args, **kwargs)

    need(len(inspect.signature(function).parameters) == len(names), name, "stand-in differs")
    return refusing_keywords(name, call)


class _Functions:
    """Those of the package, over a binding."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    def voxelization(
        self,
        points: Tensor,
        voxel_size: list[float],
        coors_range: list[float],
        max_points: int = -1,
        max_voxels: int = -1,
        deterministic: bool = True,
        layout: str = "XYZ",
    ) -> Any:
        need(len(points) > 0, "voxelization", "points must not be empty")
        if -1 not in (max_points, max_voxels):
            return self.kernels.hard_voxelize(
                points, voxel_size, coors_range, max_points, max_voxels, layout
            )
        low, high = coors_range[:3], coors_range[3:]
        grid = [round((b - a) / s) for a, b, s in zip(low, high, voxel_size, strict=True)]
        buffer = points.new_zeros((3, len(points)), dtype=torch.int32)
        return self.kernels.dynamic_voxelization(points, buffer, *grid, *voxel_size, *low)

    def dynamic_scatter(self, feats: Tensor, coors: Tensor, reduce_type: str = "max") -> Any:
        need(feats.numel() > 0, "dynamic_scatter", "feats must not be empty")
        packed = self.kernels.point_to_voxel(coors, [], [], "XYZ")
        count, cells, start, order, _ = self.kernels.unique_voxel(packed)
        out, _ = self.kernels.npu_dynamic_scatter(feats, coors, start, order, count, reduce_type)
        return out, self.kernels.voxel_to_point(cells, [], [], "XYZ")

    def unique_voxel(self, voxels: Tensor) -> Any:
        return self.kernels.unique_voxel(voxels)

    def bev_pool_v3(
        self,
        depth: Any,
        feat: Tensor,
        ranks_depth: Any,
        ranks_feat: Any,
        ranks_bev: Tensor,
        shape: Any,
    ) -> Tensor:
        b, d, h, w, _ = shape
        cell = ranks_bev
        if depth is None:
            at_h, at_w, at_d, at_b = ranks_bev.unbind(1)
            cell = ((at_b * d + at_d) * h + at_h) * w + at_w
        pooled = self.kernels.npu_bev_pool_v3(
            depth, feat, ranks_depth, ranks_feat, cell, b, d, h, w
        )
        out: Tensor = pooled.permute(0, 4, 1, 2, 3).contiguous()
        return out

    def box_iou_rotated(
        self,
        boxes_a: Tensor,
        boxes_b: Tensor,
        mode: str = "iou",
        aligned: bool = False,
        clockwise: bool = True,
    ) -> Any:
        turn = boxes_a.new_tensor([1, 1, 1, 1, 1 if clockwise else -1])
        return self.kernels.npu_box_iou_rotated(
            boxes_a * turn, boxes_b * turn, int(mode == "iof"), aligned
        )

    def nms3d(self, boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        order = scores.sort(0, descending=True)[1]
        keep, count = self.kernels.nms3d(boxes[order].contiguous(), iou_threshold)
        kept: Tensor = order[keep[: int(count)].long()]
        return kept

    def points_in_boxes_all(self, boxes: Tensor, pts: Tensor) -> Any:
        return self.kernels.npu_points_in_box_all(boxes, pts)


class _SparseFunctions:
    """Those of ``ops.sparse_functional``."""

    def __init__(self, kernels: Any, runtime: Any) -> None:
        self.kernels, self.runtime = kernels, runtime

    def indice_conv(
        self,
        features: Tensor,
        indices: Tensor,
        weight: Tensor,
        out_spatial_shape: Any,
        out_channels: int,
        batch_size: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: Any,
    ) -> Any:
        pair, number = self.kernels.npu_sparse_conv3d(
            indices, kernel_size, stride, padding, out_channels, out_spatial_shape, batch_size
        )
        _, _, start, order, first = self.kernels.unique_voxel(number)
        offset = torch.cat([start, start.new_tensor([len(number)])])
        out, _ = self.kernels.npu_sparse_matmul(features, weight, offset, order, pair)
        return out, pair[first.long()], offset, order, pair

    def indice_subm_conv(
        self,
        features: Tensor,
        indices: Tensor,
        weight: Tensor,
        indices_offset: Tensor | None,
        out_spatial_shape: Any,
        out_channels: int,
        batch_size: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: Any,
    ) -> Any:
        need("Ascend910" in self.runtime.get_device_name(), "indice_subm_conv", "wrong device")
        padded = [n + 2 * (k // 2) for n, k in zip(out_spatial_shape, kernel_size, strict=True)]
        nothing = torch.empty(0, dtype=torch.int32)
        rows, table = nothing, indices_offset
        if table is None:
            rows = indices.new_full((batch_size, *padded), -1)
            # One padding for every axis, as mx_driving has it.
            place = indices.long() + indices.new_tensor([0] + [kernel_size[0] // 2] * 3)
            numbers = torch.arange(len(indices), dtype=torch.int32, device=indices.device)
            rows[tuple(place.unbind(1))] = numbers
        out, made = self.kernels.npu_subm_sparse_conv3d_v3(
            features,
            weight,
            indices,
            nothing if table is None else table,
            rows.flatten(),
            nothing,
            kernel_size,
            features.shape[1],
            out_channels,
            padded,
            batch_size,
            int(table is not None),
            self.runtime.conv.allow_hf32,
        )
        return out, indices, made if table is None else table


def _public(layer: object, prefix: str = "") -> dict[str, Callable[..., Any]]:
    names = [name for name in vars(type(layer)) if not name.startswith("_")]
    return {name: _signed(prefix + name, getattr(layer, name)) for name in names}


def functions(kernels: Any) -> dict[str, Callable[..., Any]]:
    """Name to function of the package."""
    return _public(_Functions(kernels)) | _targets(kernels)


def _targets(kernels: Any) -> dict[str, Callable[..., Any]]:
    """Functions that hand their arguments to the binding as they are."""
    found = {}
    for name in ("npu_gaussian", "npu_draw_gaussian_to_heatmap"):
        count = len(contract()["functions"][name]["parameters"])

        def call(*args: Any, name: str = name, count: int = count) -> Any:
            need(len(args) == count, name, f"{len(args)} arguments, all {count} are wanted")
            return getattr(kernels, name)(*args)

        found[name] = refusing_keywords(name, call)
    return found


def sparse_functions(kernels: Any, runtime: Any) -> dict[str, Callable[..., Any]]:
    """Name to function of ``ops.sparse_functional``."""
    return _public(_SparseFunctions(kernels, runtime), "ops.sparse_functional.")
