"""Deformable convolution, both versions: gather what the taps see, then one matrix product."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from anybev.patches.ext._sampling import (
    from_rows,
    sum_rows,
    to_rows,
    working_dtype,
    zero_corners,
)

# Sampled columns held at once; the backward pass holds about three times as much.
_COLUMN_BYTES = 48 * 2**20


@dataclass(frozen=True)
class Geometry:
    """What a deformable convolution is, (y, x) throughout."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int

    @property
    def taps(self) -> int:
        """Places that one output pixel looks at."""
        return self.kernel[0] * self.kernel[1]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Size of the output of a (height, width) image."""
        h, w = (
            (size + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i, size in enumerate((height, width))
        )
        return h, w

    def check(self, what: str, images: Tensor, weight: Tensor, offset: Tensor) -> None:
        """Raise where the shapes contradict each other, which would otherwise sample nonsense."""
        if images.dim() != 4:
            raise ValueError(f"{what}: input must be (B, C, H, W), got {tuple(images.shape)}")
        if tuple(weight.shape[2:]) != self.kernel:
            raise ValueError(
                f"{what}: weight must have kernel {self.kernel}, got {tuple(weight.shape[2:])}"
            )
        if images.shape[1] != weight.shape[1] * self.groups:
            raise ValueError(
                f"{what}: input must have {weight.shape[1] * self.groups} channels, "
                f"got {images.shape[1]}"
            )
        expected = (
            images.shape[0],
            self.deform_groups * self.taps * 2,
            *self.output(images.shape[2], images.shape[3]),
        )
        if tuple(offset.shape) != expected:
            raise ValueError(f"{what}: offset must be {expected}, got {tuple(offset.shape)}")


@dataclass(frozen=True)
class _Part:
    """Some output positions of one image, and the leaves that its value depends on.

    Attributes:
        image: which image of the batch.
        positions: slice of the flattened output plane.
        rows: (H * W * deform_groups, C / deform_groups), the image.
        offset: (n, taps, deform_groups, 2), (y, x) in pixels.
        mask: (n, taps, deform_groups), or None.
    """

    image: int
    positions: slice
    rows: Tensor
    offset: Tensor
    mask: Tensor | None

    def leaves(self, wanted: bool) -> "_Part":
        """The same, cut off from any graph, and differentiable if wanted."""
        rows, offset = (t.detach().requires_grad_(wanted) for t in (self.rows, self.offset))
        mask = None if self.mask is None else self.mask.detach().requires_grad_(wanted)
        return _Part(self.image, self.positions, rows, offset, mask)


def _parts(
    geometry: Geometry, images: Tensor, offset: Tensor, mask: Tensor | None
) -> Iterator[_Part]:
    batch, channels, _, _ = images.shape
    taps, groups = geometry.taps, geometry.deform_groups
    plane = offset.shape[2] * offset.shape[3]
    offsets = offset.reshape(batch, groups, taps, 2, plane).permute(0, 4, 2, 1, 3)
    masks = None if mask is None else mask.reshape(batch, groups, taps, plane).permute(0, 3, 2, 1)
    step = max(1, _COLUMN_BYTES // max(1, taps * channels * images.element_size()))
    for image in range(batch):
        rows = to_rows(images[image : image + 1], groups)
        for begin in range(0, plane, step):
            positions = slice(begin, min(begin + step, plane))
            yield _Part(
                image,
                positions,
                rows,
                offsets[image, positions],
                None if masks is None else masks[image, positions],
            )


def _columns(geometry: Geometry, part: _Part, height: int, width: int) -> Tensor:
    """Sample one part: (n, taps, C)."""
    device, dtype = part.offset.device, working_dtype(part.offset.dtype)
    kernel_y, kernel_x = geometry.kernel
    position = torch.arange(part.positions.start, part.positions.stop, device=device)
    out_width = geometry.output(height, width)[1]
    tap = torch.arange(geometry.taps, device=device)
    corner_y = (position // out_width) * geometry.stride[0] - geometry.padding[0]
    corner_x = (position % out_width) * geometry.stride[1] - geometry.padding[1]
    tap_y = (tap // kernel_x) * geometry.dilation[0]
    tap_x = (tap % kernel_x) * geometry.dilation[1]
    y = (corner_y[:, None] + tap_y)[..., None] + part.offset[..., 0].to(dtype)
    x = (corner_x[:, None] + tap_x)[..., None] + part.offset[..., 1].to(dtype)
    corners = zero_corners(y, x, height, width)
    weight = corners.weight if part.mask is None else corners.weight * part.mask[..., None]
    group = torch.arange(geometry.deform_groups, device=device)[:, None]
    index = corners.index * geometry.deform_groups + group
    columns = sum_rows(part.rows, index.reshape(-1, 4), weight.reshape(-1, 4))
    return columns.view(len(position), kernel_y * kernel_x, -1)


def _matrix(weight: Tensor, groups: int) -> Tensor:
    """(O, C / groups, kh, kw) -> (groups, taps * C / groups, O / groups)."""
    out, channels = weight.shape[:2]
    split = weight.reshape(groups, out // groups, channels, -1)
    return split.permute(0, 3, 2, 1).reshape(groups, -1, out // groups)


def _to_weight(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Undo ``_matrix``."""
    out, channels = shape[:2]
    groups = matrix.shape[0]
    split = matrix.view(groups, -1, channels, out // groups)
    return split.permute(0, 3, 2, 1).reshape(shape)


def _grouped(columns: Tensor, groups: int) -> Tensor:
    """(n, taps, C) -> (groups, n, taps * C / groups)."""
    n, taps, channels = columns.shape
    split = columns.view(n, taps, groups, channels // groups)
    return split.permute(2, 0, 1, 3).reshape(groups, n, -1)


def deform_forward(
    geometry: Geometry,
    images: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    output: Tensor,
) -> None:
    """Set ``output`` (B, O, H_out, W_out); ``mask`` None is version 1."""
    height, width = images.shape[2:]
    matrix = _matrix(weight, geometry.groups)
    value = output.new_empty((len(images), len(weight), output.shape[2] * output.shape[3]))
    for part in _parts(geometry, images, offset, mask):
        columns = _grouped(_columns(geometry, part, height, width), geometry.groups)
        rows = torch.bmm(columns, matrix)  # (groups, n, O / groups)
        value[part.image, :, part.positions] = rows.permute(0, 2, 1).flatten(0, 1)
    output.copy_(value.view(output.shape))


@dataclass(frozen=True)
class Gradients:
    """Where gradients go, if anywhere. Images and weight are added to, the rest is set."""

    images: Tensor | None = None
    offset: Tensor | None = None
    mask: Tensor | None = None
    weight: Tensor | None = None
    weight_scale: float = 1.0


def deform_backward(
    geometry: Geometry,
    images: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    grad_output: Tensor,
    into: Gradients,
) -> None:
    """Hand ``grad_output`` on; offset and mask get theirs only where the images do."""
    batch, channels, height, width = images.shape
    groups, taps, deform = geometry.groups, geometry.taps, geometry.deform_groups
    plane = grad_output.shape[2] * grad_output.shape[3]
    matrix = _matrix(weight, groups)
    grad_matrix = torch.zeros_like(matrix)
    grad_rows = images.new_zeros((batch, height * width * deform, channels // deform))
    grad_offset = offset.new_zeros((batch, plane, taps, deform, 2))
    grad_mask = offset.new_zeros((batch, plane, taps, deform))
    for part in _parts(geometry, images, offset, mask):
        grad = grad_output[part.image].flatten(1)[:, part.positions]
        grad = grad.reshape(groups, -1, grad.shape[1])
        leaves = part.leaves(into.images is not None)
        with torch.enable_grad():
            columns = _columns(geometry, leaves, height, width)
        if into.weight is not None:
            grad_matrix.baddbmm_(
                _grouped(columns.detach(), groups).transpose(1, 2), grad.transpose(1, 2)
            )
        if into.images is None:
            continue
        grad_columns = torch.bmm(grad.transpose(1, 2), matrix.transpose(1, 2))
        grad_columns = grad_columns.view(groups, len(columns), taps, -1).permute(1, 2, 0, 3)
        wanted = [leaves.rows, leaves.offset] + ([] if leaves.mask is None else [leaves.mask])
        found = torch.autograd.grad(columns, wanted, grad_columns.reshape(columns.shape))
        del columns, grad_columns
        grad_rows[part.image] += found[0]
        grad_offset[part.image, part.positions] = found[1]
        if mask is not None:
            grad_mask[part.image, part.positions] = found[2]
    if into.images is not None:
        into.images.add_(from_rows(grad_rows, images.shape))
    if into.offset is not None:
        into.offset.copy_(grad_offset.permute(0, 3, 2, 4, 1).reshape(offset.shape))
    if into.mask is not None:
        into.mask.copy_(grad_mask.permute(0, 3, 2, 1).reshape(into.mask.shape))
    if into.weight is not None:
        into.weight.add_(_to_weight(grad_matrix, weight.shape), alpha=into.weight_scale)
