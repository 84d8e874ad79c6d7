"""The sensor rig: where the lidar and the six cameras sit, and when they fire.

Positions, directions and focal lengths are those of the nuScenes vehicle, rounded. The lidar is
mounted upright, turned by -90 degrees: its y axis points forward and its x axis to the right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

LIDAR = "LIDAR_TOP"
LIDAR_POSITION_M = (0.943, 0.0, 1.84)
LIDAR_YAW_RAD = -math.pi / 2

IMAGE_WIDTH, IMAGE_HEIGHT = 1600, 900

# Body of the ego vehicle in its own frame (x forward from the rear axle): length interval, width.
EGO_X_M = (-0.8, 3.3)
EGO_WIDTH_M = 1.73


class Camera(NamedTuple):
    """One camera: position and viewing direction in the ego frame, pinhole intrinsics.

    ``lead_s`` is how long before the lidar's time stamp it exposes.
    """

    channel: str
    position_m: tuple[float, float, float]
    yaw_deg: float
    pitch_deg: float
    focal_px: float
    center_px: tuple[float, float]
    lead_s: float


CAMERAS = (
    Camera("CAM_FRONT", (1.70, 0.016, 1.51), 0.3, 0.3, 1266.4, (816.3, 491.5), 0.035),
    Camera("CAM_FRONT_RIGHT", (1.55, -0.493, 1.50), -56.4, 0.8, 1260.8, (808.0, 495.3), 0.027),
    Camera("CAM_FRONT_LEFT", (1.52, 0.495, 1.51), 55.2, -0.1, 1272.6, (826.6, 479.8), 0.043),
    Camera("CAM_BACK", (0.028, 0.003, 1.58), 179.9, -1.0, 809.2, (829.2, 481.8), 0.010),
    Camera("CAM_BACK_LEFT", (1.036, 0.485, 1.59), 108.6, 0.9, 1256.7, (792.1, 492.8), 0.0),
    Camera("CAM_BACK_RIGHT", (1.015, -0.481, 1.56), -110.8, 0.9, 1259.5, (807.3, 501.2), 0.020),
)


def yaw_quaternion(yaw_rad: float) -> tuple[float, float, float, float]:
    """Unit quaternion (w, x, y, z) of a turn about z."""
    return (math.cos(yaw_rad / 2), 0.0, 0.0, math.sin(yaw_rad / 2))


def camera_quaternion(camera: Camera) -> tuple[float, float, float, float]:
    """Rotation camera -> ego as (w, x, y, z); camera axes are right, down, forward."""
    half_yaw = math.radians(camera.yaw_deg) / 2
    half_pitch = math.radians(camera.pitch_deg) / 2
    turn = (math.cos(half_yaw), 0.0, 0.0, math.sin(half_yaw))
    nod = (math.cos(half_pitch), 0.0, math.sin(half_pitch), 0.0)
    axes = (0.5, -0.5, 0.5, -0.5)
    return _multiply(_multiply(turn, nod), axes)


def camera_intrinsic(camera: Camera) -> np.ndarray:
    """Pinhole matrix (3, 3) in pixels."""
    u, v = camera.center_px
    return np.array([[camera.focal_px, 0.0, u], [0.0, camera.focal_px, v], [0.0, 0.0, 1.0]])


def camera_rotation(camera: Camera) -> np.ndarray:
    """Rotation (3, 3) camera -> ego."""
    w, x, y, z = camera_quaternion(camera)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def image_size(camera_scale: float) -> tuple[int, int]:
    """Width and height of pictures at a scale."""
    return round(IMAGE_WIDTH * camera_scale), round(IMAGE_HEIGHT * camera_scale)


def scaled(camera: Camera, camera_scale: float) -> Camera:
    """The same camera with pictures of another size."""
    u, v = camera.center_px
    return camera._replace(
        focal_px=camera.focal_px * camera_scale, center_px=(u * camera_scale, v * camera_scale)
    )


def _multiply(
    p: tuple[float, float, float, float], q: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    (a, b, c, d), (e, f, g, h) = p, q
    return (
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    )
