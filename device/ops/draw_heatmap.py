"""Dense centre targets: one Gaussian a box, merged by maximum."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.backend import widest_float
from anybev.device.ops._checks import (
    check_dtype,
    check_floating,
    check_length,
    check_min_columns,
    check_same_device,
)
from anybev.device.ops._contract import Contract

# Length or width in cells: above any grid, far from overflow.
_SIZE_LIMIT = float(1 << 24)


def _radius_cells(length: Tensor, width: Tensor, overlap: float, min_radius: int) -> Tensor:
    """Radius for boxes of ``length`` x ``width`` cells, as CornerNet's descendants compute it.

    The three roots divide by 2 and not by 2a: published checkpoints were trained on these targets.
    """
    total, area = length + width, width * length
    root1 = (total + torch.sqrt(total**2 - 4 * (area * (1 - overlap) / (1 + overlap)))) / 2
    twice = 2 * total
    root2 = (twice + torch.sqrt(twice**2 - 16 * ((1 - overlap) * width * length))) / 2
    scaled = -2 * overlap * total
    root3 = scaled**2 - 16 * overlap * ((overlap - 1) * width * length)
    root3 = (scaled + torch.sqrt(root3)) / 2
    radius = torch.minimum(torch.minimum(root1, root2), root3)
    return radius.long().clamp(min=min_radius)


def check_samples(sample_index: Tensor, batch_size: int) -> None:
    """Raise ValueError unless every box belongs to a sample of the batch."""
    if ((sample_index < 0) | (sample_index >= batch_size)).any():
        raise ValueError(f"draw_heatmap: sample_index must be in [0, {batch_size}), got others")


def _reference(
    boxes_lidar: Tensor,
    labels: Tensor,
    sample_index: Tensor,
    batch_size: int,
    num_classes: int,
    grid: Sequence[int],
    cell_size_m: Sequence[float],
    origin_m: Sequence[float],
    overlap: float,
    min_radius: int,
) -> Tensor:
    nx, ny = grid
    heatmap = boxes_lidar.new_zeros((batch_size, num_classes, nx, ny), dtype=torch.float32)
    check_samples(sample_index, batch_size)
    boxes = boxes_lidar.float()
    length = (boxes[:, 3] / cell_size_m[0]).clamp(max=_SIZE_LIMIT)
    width = (boxes[:, 4] / cell_size_m[1]).clamp(max=_SIZE_LIMIT)
    x = torch.trunc((boxes[:, 0] - origin_m[0]) / cell_size_m[0])
    y = torch.trunc((boxes[:, 1] - origin_m[1]) / cell_size_m[1])
    drawn = (x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (labels >= 0) & (labels < num_classes)
    drawn &= (length > 0) & (width > 0)

    kept = drawn.nonzero().squeeze(1)
    if kept.numel() == 0:
        return heatmap
    radius = _radius_cells(length[kept], width[kept], overlap, min_radius)
    x, y = x[kept].long(), y[kept].long()
    plane = sample_index[kept] * num_classes + labels[kept]
    x0, y0 = (x - radius).clamp(min=0), (y - radius).clamp(min=0)
    rows = (x + radius).clamp(max=nx - 1) - x0 + 1
    columns = (y + radius).clamp(max=ny - 1) - y0 + 1

    # One entry for each cell of each clipped window.
    area = rows * columns
    box = torch.repeat_interleave(area)
    offset = torch.arange(box.numel(), device=box.device) - (torch.cumsum(area, 0) - area)[box]
    cell_x, cell_y = x0[box] + offset // columns[box], y0[box] + offset % columns[box]
    squared = (cell_x - x[box]) ** 2 + (cell_y - y[box]) ** 2
    wide = widest_float(boxes.device)
    sigma = (2 * radius + 1).to(wide) / 6
    # The usual cut of values below the double epsilon never acts: at a corner the exponent is
    # -36 r^2 / (2 r + 1)^2 > -9.
    value = torch.exp(-squared.to(wide) / (2 * sigma * sigma)[box]).float()
    target = (plane[box] * nx + cell_x) * ny + cell_y
    heatmap.view(-1).scatter_reduce_(0, target, value, "amax")
    return heatmap


def _fake(
    boxes_lidar: Tensor,
    labels: Tensor,
    sample_index: Tensor,
    batch_size: int,
    num_classes: int,
    grid: Sequence[int],
    *rest: object,
) -> Tensor:
    return boxes_lidar.new_empty((batch_size, num_classes, *grid), dtype=torch.float32)


_CONTRACT = Contract(
    "draw_heatmap",
    "(Tensor boxes_lidar, Tensor labels, Tensor sample_index, int batch_size, int num_classes, "
    "int[] grid, float[] cell_size_m, float[] origin_m, float overlap, int min_radius) -> Tensor",
    reference=_reference,
    fake=_fake,
)
_CONTRACT.register_no_gradient()
_CONTRACT.register_autocast(torch.float32)


def _check_boxes(boxes_lidar: Tensor, labels: Tensor, sample_index: Tensor) -> None:
    check_floating("draw_heatmap", "boxes_lidar", boxes_lidar)
    check_min_columns("draw_heatmap", "boxes_lidar", boxes_lidar, 7, rows="G")
    for name, value in (("labels", labels), ("sample_index", sample_index)):
        check_dtype("draw_heatmap", name, value, torch.int64)
        check_length("draw_heatmap", name, value, boxes_lidar.shape[0])
        check_same_device("draw_heatmap", name, value, boxes_lidar.device)


def _check_setting(
    batch_size: int,
    num_classes: int,
    grid: Sequence[int],
    cell_size_m: Sequence[float],
    origin_m: Sequence[float],
    overlap: float,
    min_radius: int,
) -> None:
    for name, pair in (("grid", grid), ("cell_size_m", cell_size_m)):
        if len(pair) != 2 or not all(v > 0 for v in pair):
            raise ValueError(f"draw_heatmap: {name} must be 2 positive numbers, got {list(pair)}")
    if len(origin_m) != 2:
        raise ValueError(f"draw_heatmap: origin_m must be 2 numbers, got {list(origin_m)}")
    if batch_size < 1 or num_classes < 1:
        raise ValueError(
            "draw_heatmap: batch_size and num_classes must be at least 1, got "
            f"{batch_size} and {num_classes}"
        )
    if not 0 < overlap < 1 or min_radius < 0:
        raise ValueError(
            "draw_heatmap: overlap must be in (0, 1) and min_radius at least 0, got "
            f"{overlap} and {min_radius}"
        )


def draw_heatmap(
    boxes_lidar: Tensor,
    labels: Tensor,
    sample_index: Tensor,
    *,
    batch_size: int,
    num_classes: int,
    grid: Sequence[int],
    cell_size_m: Sequence[float],
    origin_m: Sequence[float],
    overlap: float = 0.1,
    min_radius: int = 2,
) -> Tensor:
    """Draw one Gaussian for each box into the plane of its sample and class.

    The centre cell is trunc((x - x0) / cx), trunc((y - y0) / cy): truncation, so a centre less than
    one cell below the origin falls into cell 0. The radius follows the historical formula
    (see ``_radius_cells``), sigma = (2 radius + 1) / 6, values merge by maximum and are clipped at
    the borders. Skipped, as ignored: boxes whose length or width is not positive (or NaN),
    centres outside the grid, labels outside [0, num_classes).

    Args:
        boxes_lidar: (G, >=7) floating: x, y, z, dx, dy, ... in metres, lidar frame; all samples of
            the batch one after the other. Computed in float32 whatever the dtype.
        labels: (G,) int64 class indices; -1 for ignored.
        sample_index: (G,) int64, the sample of each box.
        batch_size: B.
        num_classes: planes of a sample.
        grid: cells along x and y.
        cell_size_m: length of a cell along x and y, metres.
        origin_m: low corner of the grid, metres.
        overlap: smallest overlap that a shifted box must keep, in (0, 1).
        min_radius: smallest radius in cells.

    Returns:
        (B, num_classes, nx, ny) float32 in [0, 1], indexed [x, y]; no gradient. The same bits from
        every run, on CUDA too, whose exp may differ from the host's in a last bit.

    Raises:
        TypeError: boxes are not floating, labels or sample_index are not int64.
        ValueError: shapes disagree, a sample index is outside the batch, a setting is out of range.
            The CUDA kernel does not wait for the device to learn of a bad index: there the whole
            result is NaN instead.

    Source: heatmap targets of CenterPoint and TransFusion.
    """
    _check_boxes(boxes_lidar, labels, sample_index)
    _check_setting(batch_size, num_classes, grid, cell_size_m, origin_m, overlap, min_radius)
    heatmap: Tensor = _CONTRACT(
        boxes_lidar.float(),
        labels,
        sample_index,
        batch_size,
        num_classes,
        [int(n) for n in grid],
        [float(v) for v in cell_size_m],
        [float(v) for v in origin_m],
        float(overlap),
        min_radius,
    )
    return heatmap
