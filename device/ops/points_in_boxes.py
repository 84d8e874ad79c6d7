"""Which points lie in which boxes."""

import torch
from torch import Tensor

from anybev.device.backend import widest_float
from anybev.device.ops._checks import (
    check_floating,
    check_min_columns,
    check_same_device,
    promote_half,
)
from anybev.device.ops._contract import Contract

# Tests that the reference holds at once.
_TESTS_AT_ONCE = 1 << 20


def _reference(points_lidar_m: Tensor, boxes_lidar: Tensor) -> Tensor:
    inside = points_lidar_m.new_empty(
        (points_lidar_m.shape[0], boxes_lidar.shape[0]), dtype=torch.bool
    )
    if inside.numel() == 0:
        return inside
    dtype = points_lidar_m.dtype
    # In double, then rounded: every implementation then agrees on the sine of a float32 angle; a
    # device without float64 may differ in its last bit.
    yaw_rad = boxes_lidar[:, 6].to(widest_float(boxes_lidar.device))
    cos, sin = torch.cos(yaw_rad).to(dtype), torch.sin(yaw_rad).to(dtype)
    half_x, half_y = boxes_lidar[:, 3] / 2, boxes_lidar[:, 4] / 2
    rows = max(1, _TESTS_AT_ONCE // boxes_lidar.shape[0])
    for i in range(0, points_lidar_m.shape[0], rows):
        points = points_lidar_m[i : i + rows, :3]
        dx, dy, up = (points[:, None, axis] - boxes_lidar[None, :, axis] for axis in range(3))
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        inside[i : i + rows] = (
            (along.abs() <= half_x)
            & (across.abs() <= half_y)
            & (up >= 0)
            & (up <= boxes_lidar[:, 5])
        )
    return inside


def _fake(points_lidar_m: Tensor, boxes_lidar: Tensor) -> Tensor:
    return points_lidar_m.new_empty(
        (points_lidar_m.shape[0], boxes_lidar.shape[0]), dtype=torch.bool
    )


_CONTRACT = Contract(
    "points_in_boxes",
    "(Tensor points_lidar_m, Tensor boxes_lidar) -> Tensor",
    reference=_reference,
    fake=_fake,
)
_CONTRACT.register_no_gradient()
_CONTRACT.register_autocast(torch.float32)


def points_in_boxes(points_lidar_m: Tensor, boxes_lidar: Tensor) -> Tensor:
    """Test every point against every box.

    All six faces belong to the box: a point exactly on one is inside. In the box's frame, with z
    counted from its bottom, that is |x| <= dx / 2, |y| <= dy / 2, 0 <= z <= dz. A negative size
    holds no point, a NaN coordinate is in no box.

    Args:
        points_lidar_m: (P, >=3) floating: x, y, z in metres, lidar frame; further columns are
            features and are not read.
        boxes_lidar: (G, >=7) floating: x, y, z_bottom, dx, dy, dz in metres, yaw in radians about
            z (0 at +x, counter-clockwise); further columns are not read.

    Returns:
        (P, G) bool; no gradient. float16 and bfloat16 are computed in float32; of two dtypes the
        wider counts.

    Raises:
        TypeError: points or boxes are not floating.
        ValueError: a shape or device is out of its contract.
    """
    check_floating("points_in_boxes", "points_lidar_m", points_lidar_m)
    check_min_columns("points_in_boxes", "points_lidar_m", points_lidar_m, 3, rows="P")
    check_floating("points_in_boxes", "boxes_lidar", boxes_lidar)
    check_min_columns("points_in_boxes", "boxes_lidar", boxes_lidar, 7, rows="G")
    check_same_device("points_in_boxes", "boxes_lidar", boxes_lidar, points_lidar_m.device)
    inside: Tensor = _CONTRACT(*promote_half(points_lidar_m, boxes_lidar))
    return inside
