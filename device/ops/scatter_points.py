"""Features of points, summed, averaged or maximised by voxel."""

from typing import Any

import torch
from torch import Tensor

from anybev.device.ops._checks import (
    check_dtype,
    check_floating,
    check_same_device,
    sum_dtype,
)
from anybev.device.ops._contract import Contract

REDUCES = ("sum", "mean", "max")
_CELL_LIMIT = 1 << 62
_POINT_LIMIT = 1 << 31


def linear_keys(coords: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """Linear cell of each row of ``coords``, ascending with it; lowest numbers and extents."""
    low, high = (bound.tolist() for bound in torch.aminmax(coords, dim=0))
    extents = [hi - lo + 1 for lo, hi in zip(low, high, strict=True)]
    key = torch.zeros_like(coords[:, 0], dtype=torch.int64)
    cells = 1
    for extent in extents:
        cells *= extent
    if cells > _CELL_LIMIT:
        raise ValueError(
            f"scatter_points: coords must span at most 2^62 cells, got {low} to {high}"
        )
    for column, lo, extent in zip(coords.unbind(1), low, extents, strict=True):
        key = key * extent + (column.long() - lo)
    return key, low, extents


def decode_keys(cells: Tensor, low: list[int], extents: list[int]) -> Tensor:
    """(V, D) int64: inverse of :func:`linear_keys`."""
    columns = []
    for lo, extent in zip(reversed(low), reversed(extents), strict=True):
        columns.append(cells % extent + lo)
        cells = cells // extent
    return torch.stack(columns[::-1], 1)


def _group(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels in ascending order, voxel of each row and rows of each voxel."""
    point2voxel = torch.full_like(coords[:, 0], -1, dtype=torch.int32)
    valid = (coords >= 0).all(1).nonzero().squeeze(1)
    if not valid.numel():
        return coords[:0], point2voxel, point2voxel[:0]
    key, low, extents = linear_keys(coords[valid])
    cells, voxel, counts = torch.unique(key, return_inverse=True, return_counts=True)
    point2voxel[valid] = voxel.int()
    return decode_keys(cells, low, extents).to(coords.dtype), point2voxel, counts.int()


def _first_of_maximum(features: Tensor, reduced: Tensor, voxel: Tensor) -> Tensor:
    """(V, C): the first row of ``features`` that holds each maximum."""
    rows = torch.arange(voxel.numel(), device=voxel.device)[:, None]
    maximum = reduced[voxel]
    hit = (features == maximum) | (features.isnan() & maximum.isnan())
    candidates = torch.where(hit, rows, voxel.numel())
    first = torch.full(reduced.shape, voxel.numel(), dtype=torch.int64, device=voxel.device)
    return first.scatter_reduce_(0, voxel[:, None].expand_as(hit), candidates, "amin")


def _reference(
    features: Tensor, coords: Tensor, reduce: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out_coords, point2voxel, counts = _group(coords)
    index = (point2voxel >= 0).nonzero().squeeze(1)
    values, voxel = features[index].to(sum_dtype(features.dtype)), point2voxel[index].long()
    out = values.new_zeros((counts.numel(), features.shape[1]))
    if reduce == "max":
        target = voxel[:, None].expand_as(values)
        out = out.fill_(-torch.inf).scatter_reduce_(0, target, values, "amax")
        first = _first_of_maximum(values, out, voxel)
        out = values.gather(0, first) if counts.numel() else out
    else:
        out.index_add_(0, voxel, values)
        if reduce == "mean":
            out /= counts[:, None].to(out.dtype)
    return out, out_coords.clone(), point2voxel, counts.clone()


def _fake(features: Tensor, coords: Tensor, reduce: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    voxels = torch.library.get_ctx().new_dynamic_size()
    return (
        features.new_empty((voxels, features.shape[1]), dtype=sum_dtype(features.dtype)),
        coords.new_empty((voxels, coords.shape[1])),
        coords.new_empty((coords.shape[0],), dtype=torch.int32),
        coords.new_empty((voxels,), dtype=torch.int32),
    )


def _backward_reference(
    grad: Tensor,
    point2voxel: Tensor,
    counts: Tensor,
    features: Tensor | None,
    reduced: Tensor | None,
    reduce: str,
) -> Tensor:
    index = (point2voxel >= 0).nonzero().squeeze(1)
    voxel = point2voxel[index].long()
    if reduce == "mean":
        grad = grad / counts[:, None].to(grad.dtype)
    rows = grad[voxel]
    if features is not None and reduced is not None:
        first = _first_of_maximum(features[index].to(reduced.dtype), reduced, voxel)
        own = torch.arange(voxel.numel(), device=voxel.device)[:, None]
        rows = torch.where(first[voxel] == own, rows, 0)
    out = grad.new_zeros((point2voxel.numel(), grad.shape[1]))
    out[index] = rows
    return out


def _backward_fake(
    grad: Tensor,
    point2voxel: Tensor,
    counts: Tensor,
    features: Tensor | None,
    reduced: Tensor | None,
    reduce: str,
) -> Tensor:
    return grad.new_empty((point2voxel.shape[0], grad.shape[1]))


_SCATTER = Contract(
    "scatter_points",
    "(Tensor features, Tensor coords, str reduce) -> "
    "(Tensor reduced, Tensor out_coords, Tensor point2voxel, Tensor counts)",
    reference=_reference,
    fake=_fake,
)
_BACKWARD = Contract(
    "scatter_points_backward",
    "(Tensor grad, Tensor point2voxel, Tensor counts, Tensor? features, Tensor? reduced, "
    "str reduce) -> Tensor",
    reference=_backward_reference,
    fake=_backward_fake,
    public="scatter_points",
)


def _save_scatter(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, _, ctx.reduce = inputs
    reduced, out_coords, point2voxel, counts = output
    ctx.dtype = features.dtype
    ctx.mark_non_differentiable(out_coords, point2voxel, counts)
    values = (features, reduced) if ctx.reduce == "max" else (None, None)
    ctx.save_for_backward(point2voxel, counts, *values)


def _scatter_backward(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Any, ...]:
    out = _BACKWARD(grad, *ctx.saved_tensors, ctx.reduce)
    return out.to(ctx.dtype), None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, point2voxel, counts, features, reduced, ctx.reduce = inputs
    ctx.voxels = grad.shape[0]
    ctx.save_for_backward(point2voxel, counts, features, reduced)


def _backward_backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    """The gradient is linear in ``grad``: each voxel gets back what it gave, weighted alike."""
    point2voxel, counts, features, reduced = ctx.saved_tensors
    ones = cotangent.new_ones((ctx.voxels, cotangent.shape[1]))
    weights = _BACKWARD(ones, point2voxel, counts, features, reduced, ctx.reduce)
    index = (point2voxel >= 0).nonzero().squeeze(1)
    given = (cotangent * weights)[index]
    out = torch.zeros_like(ones).index_add(0, point2voxel[index].long(), given)
    return out, None, None, None, None, None


_SCATTER.register_autograd(_scatter_backward, setup_context=_save_scatter)
_BACKWARD.register_autograd(_backward_backward, setup_context=_save_backward)


def scatter_points(
    features: Tensor, coords: Tensor, reduce: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reduce the features of all points that share a voxel to one row.

    Sums run in float32 (float64 for float64 features), in point order and each voxel by one
    thread: on the CPU the result has the same bits for any number of threads, and the CUDA kernel
    sums in the same order; it waits for the device once, for V. A maximum over NaN is NaN. Autocast
    changes nothing: half precision features are taken as they come, and sums over hundreds of
    points are not rounded to it.

    Args:
        features: (P, C) float32, float16, bfloat16 or float64; one row a point.
        coords: (P, D) int32 or int64, voxel of each point, in any order; a row with a negative
            number has none. What the others span, column by column, multiplies to 2^62 at most.
        reduce: ``sum``, ``mean`` or ``max``.

    Returns:
        reduced: (V, C) float32 (float64 for float64 features). Its gradient goes to the features,
            in their dtype: that of a maximum to the first point that holds it.
        out_coords: (V, D) in the dtype of ``coords``, the voxels in ascending order.
        point2voxel: (P,) int32, row of each point's voxel; -1 for a point without one.
        counts: (V,) int32, points of each voxel.

    Raises:
        TypeError: features are not floating, or coords are not int32 or int64.
        ValueError: a shape, a device, ``reduce`` or the span of the coordinates is out of its
            contract.

    Source: ``DynamicScatter`` of mmcv; its order of voxels, its first point of a maximum.
    """
    check_floating("scatter_points", "features", features)
    if features.dim() != 2:
        raise ValueError(f"scatter_points: features must be (P, C), got {tuple(features.shape)}")
    check_dtype("scatter_points", "coords", coords, torch.int32, torch.int64)
    check_same_device("scatter_points", "coords", coords, features.device)
    if coords.dim() != 2 or coords.shape[0] != features.shape[0] or coords.shape[1] < 1:
        raise ValueError(
            f"scatter_points: coords must be ({features.shape[0]}, >=1) as features have as many "
            f"rows, got {tuple(coords.shape)}"
        )
    if coords.shape[0] >= _POINT_LIMIT:
        raise ValueError(
            f"scatter_points: coords must have fewer than 2^31 rows, got {coords.shape[0]}"
        )
    if reduce not in REDUCES:
        raise ValueError(
            f"scatter_points: reduce must be one of {', '.join(REDUCES)}, got {reduce!r}"
        )
    reduced, out_coords, point2voxel, counts = _SCATTER(features, coords, reduce)
    return reduced, out_coords, point2voxel, counts
