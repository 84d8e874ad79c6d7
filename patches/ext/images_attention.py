"""Multi-scale deformable attention of ``mmcv._ext``: one weighted sum of value rows a query."""

from collections.abc import Iterator

import torch
from torch import Tensor

from anybev.patches.ext._sampling import sum_rows, working_dtype, zero_corners
from anybev.patches.ext._table import supplies

_PIECE_CORNERS = 1_500_000


def _attend(
    rows: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Attend from some queries to one image.

    Args:
        rows: (keys * heads, D).
        shapes: (L, 2) int64, (height, width).
        starts: (L,) int64, first key of a level.
        locations: (Q, heads, L, points, 2), (x, y) in 0..1.
        weights: (Q, heads, L, points).

    Returns:
        (Q, heads * D).
    """
    heads = locations.shape[1]
    locations = locations.to(working_dtype(locations.dtype))
    height, width = (shapes[:, i, None].to(locations.device) for i in (0, 1))  # (L, 1)
    y, x = locations[..., 1] * height - 0.5, locations[..., 0] * width - 0.5
    corners = zero_corners(y, x, height, width)
    key = corners.index + starts[:, None, None]
    head = torch.arange(heads, device=rows.device)[:, None, None, None]
    lines = locations.shape[0] * heads
    index = (key * heads + head).reshape(lines, -1)
    weight = (corners.weight * weights[..., None]).reshape(lines, -1)
    return sum_rows(rows, index, weight).view(locations.shape[0], -1)


def _pieces(locations: Tensor) -> Iterator[tuple[int, slice]]:
    batch, queries, heads, levels, points = locations.shape[:5]
    step = max(1, _PIECE_CORNERS // max(1, 4 * heads * levels * points))
    for image in range(batch):
        for begin in range(0, queries, step):
            yield image, slice(begin, min(begin + step, queries))


@supplies()
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (mmcv ``ms_deform_attn_forward``).

    Args:
        value: (B, keys, heads, D) float.
        value_spatial_shapes: (L, 2) int64, (height, width) of each level.
        value_level_start_index: (L,) int64, first key of each level.
        sampling_locations: (B, Q, heads, L, points, 2), (x, y), 0..1 from border to border.
            Samples outside are zero.
        attention_weights: (B, Q, heads, L, points).
        im2col_step: images upstream takes at once; the value does not depend on it.

    Returns:
        (B, Q, heads * D), dtype of ``value``.
    """
    batch, queries = sampling_locations.shape[:2]
    output = value.new_empty((batch, queries, value.shape[2] * value.shape[3]))
    for image, piece in _pieces(sampling_locations):
        output[image, piece] = _attend(
            value[image].flatten(0, 1),
            value_spatial_shapes,
            value_level_start_index,
            sampling_locations[image, piece],
            attention_weights[image, piece],
        )
    return output


@supplies()
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of ``ms_deform_attn_forward``: the first is added, the other two are set."""
    for image, piece in _pieces(sampling_locations):
        rows = value[image].flatten(0, 1).detach().requires_grad_()
        locations = sampling_locations[image, piece].detach().requires_grad_()
        weights = attention_weights[image, piece].detach().requires_grad_()
        with torch.enable_grad():
            out = _attend(rows, value_spatial_shapes, value_level_start_index, locations, weights)
        wanted = (rows, locations, weights)
        grads = torch.autograd.grad(out, wanted, grad_output[image, piece])
        grad_value[image] += grads[0].view(value.shape[1:])
        grad_sampling_loc[image, piece] = grads[1]
        grad_attn_weight[image, piece] = grads[2]
