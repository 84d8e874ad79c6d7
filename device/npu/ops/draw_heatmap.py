"""draw_heatmap through ``mx_driving.npu_gaussian`` and ``npu_draw_gaussian_to_heatmap``.

The first kernel truncates centres and computes radii by the contract's formula, the second draws.
It indexes maps [class, y, x] and counts classes from 1, so x and y change places on the way in, and
the planes of all samples count as classes of one map: sample * num_classes + label + 1, and 0 for
what is not drawn. The centres go back transposed, (2, G). Values are computed in float32, the
contract's in float64 and then rounded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import vendor
from anybev.device.ops.draw_heatmap import check_samples

_COLUMNS = 9  # of a box, as npu_gaussian reads it


def draw_heatmap(
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
    """See the contract."""
    nx, ny = grid
    count = boxes_lidar.shape[0]
    limits.require_work(count)
    most = limits.HEATMAP_CELLS
    limits.require(max(grid) <= most, f"cells of a side must be at most {most}", max(grid))
    check_samples(sample_index, batch_size)
    x, y, _, dx, dy = boxes_lidar.float()[:, :5].unbind(1)
    boxes = torch.stack([y, x, torch.zeros_like(x), dy, dx], 1)
    drawn = (labels >= 0) & (labels < num_classes) & torch.isfinite(boxes).all(1)
    boxes = torch.nan_to_num(boxes, 0.0, 0.0, 0.0)
    boxes = torch.nn.functional.pad(boxes, (0, _COLUMNS - boxes.shape[1])).contiguous()
    centre, radius, mask, _, _ = vendor().npu_gaussian(
        boxes,
        1,  # the voxel sizes below are the map's cells
        overlap,
        min_radius,
        cell_size_m[1],
        cell_size_m[0],
        origin_m[1],
        origin_m[0],
        ny,
        nx,
        False,
        True,
        False,
        count,
    )
    plane = torch.where(drawn, sample_index * num_classes + labels + 1, 0).int()
    heatmap: Tensor = vendor().npu_draw_gaussian_to_heatmap(
        mask, plane, centre.t().contiguous(), radius, ny, nx, batch_size * num_classes
    )
    return heatmap.view(batch_size, num_classes, nx, ny)
