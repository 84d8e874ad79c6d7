"""Geometry of boxes (G, 9) in the lidar frame: x, y, z_bottom, dx, dy, dz, yaw, vx, vy.

Metres, radians, metres a second. Yaw turns from +x towards +y; dx lies along the heading. Functions
return new arrays and keep the dtype.
"""

from __future__ import annotations

import numpy as np


def wrap_angle(angle_rad: np.ndarray) -> np.ndarray:
    """Angles in [-pi, pi)."""
    turns = np.floor(angle_rad / (2 * np.pi) + 0.5)
    return (angle_rad - turns * (2 * np.pi)).astype(angle_rad.dtype)


def gravity_centres(boxes_lidar: np.ndarray) -> np.ndarray:
    """(G, 3) centres of the boxes (their z is the bottom)."""
    centres = boxes_lidar[:, :3].copy()
    centres[:, 2] += boxes_lidar[:, 5] * boxes_lidar.dtype.type(0.5)
    return centres


def corners(boxes_lidar: np.ndarray) -> np.ndarray:
    """(G, 8, 3) corners: the bottom four counter-clockwise from front left, then the top four."""
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], boxes_lidar.dtype)
    flat = signs[None] * boxes_lidar[:, None, 3:5] / 2
    c, s = np.cos(boxes_lidar[:, 6, None]), np.sin(boxes_lidar[:, 6, None])
    x = flat[..., 0] * c - flat[..., 1] * s + boxes_lidar[:, None, 0]
    y = flat[..., 0] * s + flat[..., 1] * c + boxes_lidar[:, None, 1]
    bottom = np.stack([x, y, np.broadcast_to(boxes_lidar[:, None, 2], x.shape)], -1)
    top = bottom.copy()
    top[..., 2] += boxes_lidar[:, None, 5]
    return np.concatenate([bottom, top], 1)


def rotate(boxes_lidar: np.ndarray, angle_rad: float) -> np.ndarray:
    """Turn boxes about the z axis of the frame, velocity included."""
    turned = boxes_lidar.copy()
    turn = rotation_about_z(angle_rad)[:2, :2].T
    turned[:, :2] = boxes_lidar[:, :2] @ turn
    turned[:, 7:9] = boxes_lidar[:, 7:9] @ turn
    turned[:, 6] += angle_rad
    return turned


def scale(boxes_lidar: np.ndarray, factor: float) -> np.ndarray:
    """Scale position, size and velocity about the origin."""
    scaled = boxes_lidar.copy()
    scaled[:, :6] *= factor
    scaled[:, 7:9] *= factor
    return scaled


def translate(boxes_lidar: np.ndarray, offset_m: np.ndarray) -> np.ndarray:
    """Move boxes by ``offset_m`` (3,)."""
    moved = boxes_lidar.copy()
    moved[:, :3] += offset_m.astype(boxes_lidar.dtype)
    return moved


def flip_y(boxes_lidar: np.ndarray) -> np.ndarray:
    """Mirror left and right: y, vy and yaw change sign."""
    flipped = boxes_lidar.copy()
    flipped[:, [1, 6, 8]] *= -1
    return flipped


def flip_x(boxes_lidar: np.ndarray) -> np.ndarray:
    """Mirror front and back: x and vx change sign, yaw becomes pi - yaw."""
    flipped = boxes_lidar.copy()
    flipped[:, [0, 7]] *= -1
    flipped[:, 6] = np.pi - flipped[:, 6]
    return flipped


def bev_rectangles(boxes_lidar: np.ndarray) -> np.ndarray:
    """(G, 5) rectangles seen from above: x, y, dx, dy, yaw."""
    return boxes_lidar[:, [0, 1, 3, 4, 6]]


def rotation_about_z(angle_rad: float) -> np.ndarray:
    """(3, 3) float64 rotation, for column vectors."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
