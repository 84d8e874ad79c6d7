"""Where the pixels of a camera's feature map look, in the lidar frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anybev.datasets.sample import CameraBatch
from anybev.device import widest_float


@dataclass(frozen=True)
class Rays:
    """The point at depth d of a pixel is ``origin + d * ray``.

    Attributes:
        rays_m: (B, N, h, w, 3) float32, lidar frame, metres for each metre of depth.
        origins_m: (B, N, 3) float32, the cameras' centres in the lidar frame.
    """

    rays_m: Tensor
    origins_m: Tensor


def camera_rays(pixels: Tensor, cameras: CameraBatch, lidar_aug_matrix: Tensor) -> Rays:
    """Rays through pixels of augmented pictures, in the augmented lidar frame.

    The matrices are inverted and multiplied in float64 where the device has it: the products are a
    few hundred numbers, the rays a few thousand.

    Args:
        pixels: (h, w, 2) column and row in the pictures the model sees.
        cameras: calibration.
        lidar_aug_matrix: (B, 4, 4).

    Returns:
        Rays, float32.
    """
    dtype = widest_float(pixels.device)
    picture = cameras.img_aug_matrix.to(dtype)
    cam2lidar = cameras.cam2lidar.to(dtype)
    augment = lidar_aug_matrix.to(dtype)[:, None]
    # Picture augmentation moves columns and rows alone, so depth stays metric.
    turn = inverse_2x2(picture[..., :2, :2])
    offset = pixels.to(dtype) - picture[..., None, None, :2, 3]
    recorded = torch.einsum("bnij,bnhwj->bnhwi", turn, offset)
    rotation = augment[..., :3, :3] @ cam2lidar[..., :3, :3]
    project = rotation @ inverse_3x3(cameras.cam2img[..., :3, :3].to(dtype))
    homogeneous = torch.cat([recorded, torch.ones_like(recorded[..., :1])], -1)
    rays = torch.einsum("bnij,bnhwj->bnhwi", project, homogeneous)
    centre = augment[..., :3, :3] @ cam2lidar[..., :3, 3:]
    origins = (centre + augment[..., :3, 3:]).squeeze(-1)
    return Rays(rays.float(), origins.float())


def frustum_points(frustum: Tensor, cameras: CameraBatch, lidar_aug_matrix: Tensor) -> Tensor:
    """Points of the frustum, step by step in the order of upstream, so that they round alike.

    Args:
        frustum: (D, h, w, 3) float32 column, row, depth.
        cameras: calibration.
        lidar_aug_matrix: (B, 4, 4).

    Returns:
        (B, N, D, h, w, 3) float32, metres, augmented lidar frame.
    """
    wide = (..., None, None, None)
    picture, cam2lidar = cameras.img_aug_matrix, cameras.cam2lidar
    points = frustum - picture[..., :3, 3][(*wide, slice(None))]
    turn = torch.linalg.inv(picture[..., :3, :3])[(*wide, slice(None), slice(None))]
    points = turn.matmul(points.unsqueeze(-1))
    depth = points[..., 2:3, :]
    points = torch.cat([points[..., :2, :] * depth, depth], dim=-2)
    combined = cam2lidar[..., :3, :3].matmul(torch.linalg.inv(cameras.cam2img[..., :3, :3]))
    points = combined[(*wide, slice(None), slice(None))].matmul(points).squeeze(-1)
    points = points + cam2lidar[..., :3, 3][(*wide, slice(None))]
    augment = lidar_aug_matrix[:, None, None, None, None]
    points = augment[..., :3, :3].matmul(points.unsqueeze(-1)).squeeze(-1)
    return points + augment[..., :3, 3]


def inverse_2x2(matrix: Tensor) -> Tensor:
    """Inverse of (..., 2, 2), in closed form: a solver would wait for the device."""
    a, b = matrix[..., 0, 0], matrix[..., 0, 1]
    c, d = matrix[..., 1, 0], matrix[..., 1, 1]
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    return adjugate / (a * d - b * c)[..., None, None]


def inverse_3x3(matrix: Tensor) -> Tensor:
    """Inverse of (..., 3, 3), in closed form: a solver would wait for the device."""
    first, second, third = matrix.unbind(-2)
    columns = [
        torch.linalg.cross(second, third),
        torch.linalg.cross(third, first),
        torch.linalg.cross(first, second),
    ]
    determinant = (first * columns[0]).sum(-1)
    inverse: Tensor = torch.stack(columns, -1) / determinant[..., None, None]
    return inverse
