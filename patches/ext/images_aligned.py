"""Shifts in time, turned filters and turned feature alignment of ``mmcv._ext``: index tables."""

import torch
from torch import Tensor

from anybev.patches.ext._sampling import (
    add_rows,
    border_corners,
    from_rows,
    sum_rows,
    to_rows,
    working_dtype,
)
from anybev.patches.ext._table import supplies


def _shifted(input: Tensor, shift: Tensor, output: Tensor) -> None:
    times, channels = input.shape[1:3]
    steps = shift.long().repeat_interleave(channels // shift.shape[1], 1)  # (N, C)
    source = torch.arange(times, device=input.device)[:, None] - steps[:, None]  # (N, T, C)
    there = ((source >= 0) & (source < times))[..., None]
    index = source.clamp(0, times - 1)[..., None].expand_as(input)
    output.copy_(torch.where(there, input.gather(1, index), output))


@supplies()
def tin_shift_forward(input: Tensor, shift: Tensor, output: Tensor) -> None:
    """Move groups of channels in time (mmcv ``tin_shift_forward``).

    Args:
        input: (N, T, C, S) float.
        shift: (N, groups) int32, steps forwards; a group is C / groups channels.
        output: (N, T, C, S), set where a step of ``input`` arrives, otherwise left.
    """
    _shifted(input, shift, output)


@supplies()
def tin_shift_backward(grad_output: Tensor, shift: Tensor, grad_input: Tensor) -> None:
    """What upstream calls the gradient: ``grad_output`` moved forwards, as in the forward pass.

    The derivative would move it backwards; upstream does not, and checkpoints were trained so.
    """
    _shifted(grad_output, shift, grad_input)


def _orientations(indices: Tensor) -> tuple[Tensor, Tensor]:
    """(entries, rotations) int64: where each entry of a filter goes, and the rotation."""
    target = indices.reshape(-1, indices.shape[-1]).long() - 1
    return target, torch.arange(target.shape[1], device=indices.device).expand_as(target)


@supplies()
def active_rotated_filter_forward(input: Tensor, indices: Tensor, output: Tensor) -> None:
    """Turn filters (mmcv ``active_rotated_filter_forward``).

    Args:
        input: (O, I, orientations, H, W) float.
        indices: (orientations, H, W, rotations) int32, where an entry goes, counted from 1.
        output: (O * rotations, I * orientations, H, W), set where an entry goes.
    """
    planes, channels = input.shape[:2]
    target, rotation = _orientations(indices)
    turned = output.reshape(planes, target.shape[1], channels, -1).clone()
    entry = input.reshape(planes, channels, -1)[..., None].expand(-1, -1, *target.shape)
    turned[:, rotation, :, target] = entry.permute(2, 3, 0, 1)
    output.copy_(turned.reshape(output.shape))


@supplies()
def active_rotated_filter_backward(grad_out: Tensor, indices: Tensor, grad_in: Tensor) -> None:
    """Gradient of ``active_rotated_filter_forward``, set in ``grad_in``."""
    planes, channels = grad_in.shape[:2]
    target, rotation = _orientations(indices)
    turned = grad_out.reshape(planes, target.shape[1], channels, -1)
    total = turned[:, rotation, :, target].sum(1)  # (entries, O, I)
    grad_in.copy_(total.permute(1, 2, 0).reshape(grad_in.shape))


def _box_samples(boxes: Tensor, scale: float, points: int) -> tuple[Tensor, Tensor]:
    """(y, x) of a box's centre, and of its corners if ``points`` is 5: two (..., points)."""
    boxes = boxes.to(working_dtype(boxes.dtype))
    y, x, width, height = (boxes[..., :4] * scale).unbind(-1)
    if points == 1:
        return y[..., None], x[..., None]
    cos, sin = torch.cos(boxes[..., 4]), torch.sin(boxes[..., 4])
    along = torch.tensor([0.0, 1, -1, -1, 1], device=boxes.device, dtype=boxes.dtype) / 2
    across = torch.tensor([0.0, 1, 1, -1, -1], device=boxes.device, dtype=boxes.dtype) / 2
    along, across = width[..., None] * along, height[..., None] * across
    cos, sin = cos[..., None], sin[..., None]
    return y[..., None] + sin * along + cos * across, x[..., None] + cos * along - sin * across


def _box_corners(
    boxes: Tensor, scale: float, points: int, shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """(pixels, points * 4) row and weight of what each pixel of the batch adds to itself."""
    batch, _, height, width = shape
    corners = border_corners(*_box_samples(boxes, scale, points), height, width)
    image = torch.arange(batch, device=boxes.device).view(batch, 1, 1, 1, 1)
    index = corners.index + image * (height * width)
    lines = batch * height * width
    return index.reshape(lines, -1), corners.weight.reshape(lines, -1)


@supplies()
def rotated_feature_align_forward(
    features: Tensor, best_bboxes: Tensor, output: Tensor, spatial_scale: float, points: int
) -> None:
    """Add to each pixel what its turned box covers (mmcv ``rotated_feature_align_forward``).

    Args:
        features: (N, C, H, W) float.
        best_bboxes: (N, H, W, 5): centre y and x, size along and across, angle in radians. The
            kernels read the centre's y first, whatever upstream's docstring calls it.
        output: (N, C, H, W), set.
        spatial_scale: pixels of ``features`` a unit of the boxes.
        points: 1 samples the centre, 5 the centre and the corners.
    """
    rows = to_rows(features.to(working_dtype(features.dtype)))
    index, weight = _box_corners(best_bboxes, spatial_scale, points, features.shape)
    output.copy_(from_rows(rows + sum_rows(rows, index, weight), features.shape))


@supplies()
def rotated_feature_align_backward(
    top_grad: Tensor, best_bboxes: Tensor, bottom_grad: Tensor, spatial_scale: float, points: int
) -> None:
    """Gradient of ``rotated_feature_align_forward`` by features, added to ``bottom_grad``."""
    rows = to_rows(top_grad.to(working_dtype(top_grad.dtype)))
    index, weight = _box_corners(best_bboxes, spatial_scale, points, top_grad.shape)
    line = torch.arange(len(rows), device=rows.device).repeat_interleave(index.shape[1])
    total = rows + add_rows(len(rows), index.flatten(), rows, line, weight.flatten())
    bottom_grad += from_rows(total, top_grad.shape)
