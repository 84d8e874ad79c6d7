"""Cameras for the small BEVFusion of `tiny`: pictures of 64 x 32 pixels, any number of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from anybev.datasets.sample import Batch, CameraBatch
from anybev.engine.check.tiny import tiny_batch, tiny_model_cfg

IMAGE_SIZE = (32, 64)
_CHANNELS = 12
#: Of a view transform on its own: 6 channels in, 24 depths, 32 x 32 cells.
VIEW_SETTINGS: dict[str, Any] = {
    "in_channels": 6,
    "out_channels": 5,
    "image_size": IMAGE_SIZE,
    "feature_size": (4, 8),
    "xbound": [-16.0, 16.0, 1.0],
    "ybound": [-24.0, 24.0, 1.5],
    "zbound": [-10.0, 10.0, 20.0],
    "dbound": [1.0, 13.0, 0.5],
}
_LIDAR_CHANNELS = 40


def tiny_camera_cfg(
    *, lidar: bool = True, depth: bool = True, velocity: bool = True, **head: Any
) -> dict[str, Any]:
    """Model config of lidar and cameras.

    Args:
        lidar: with the lidar branch.
        depth: lidar points are drawn into the pictures (DepthLSSTransform).
        velocity: see `tiny_model_cfg`.
        **head: see `tiny_model_cfg`.
    """
    config = tiny_model_cfg(velocity=velocity, **head)
    config["data_preprocessor"] |= {"mean": [120.0, 110.0, 100.0], "std": [60.0, 55.0, 50.0]}
    config["img_backbone"] = {
        "type": "mmdet.SwinTransformer",
        "embed_dims": 8,
        "depths": [2, 2, 2, 2],
        "num_heads": [1, 2, 2, 4],
        "window_size": 3,
        "mlp_ratio": 2,
        "out_indices": [1, 2, 3],
        "drop_path_rate": 0.1,
    }
    config["img_neck"] = {
        "type": "GeneralizedLSSFPN",
        "in_channels": [16, 32, 64],
        "out_channels": 16,
        "num_outs": 3,
        "norm_cfg": {"type": "BN2d", "requires_grad": True},
        "act_cfg": {"type": "ReLU", "inplace": True},
        "upsample_cfg": {"mode": "bilinear", "align_corners": False},
    }
    config["view_transform"] = {
        "type": "DepthLSSTransform" if depth else "LSSTransform",
        "in_channels": 16,
        "out_channels": _CHANNELS,
        "image_size": list(IMAGE_SIZE),
        "feature_size": [4, 8],
        "xbound": [-16.0, 16.0, 1.0],
        "ybound": [-24.0, 24.0, 1.0],
        "zbound": [-10.0, 10.0, 20.0],
        "dbound": [1.0, 30.0, 1.0],
        "downsample": 2,
    }
    if lidar:
        widths = [_CHANNELS, _LIDAR_CHANNELS]
        fusion = {"type": "ConvFuser", "in_channels": widths, "out_channels": _LIDAR_CHANNELS}
        return config | {"fusion_layer": fusion}
    config["data_preprocessor"].pop("voxelize_cfg")
    config["pts_backbone"]["in_channels"] = _CHANNELS
    return config | {"pts_middle_encoder": None, "pts_voxel_encoder": None}


def tiny_cameras(batch_size: int, count: int = 2, seed: int = 0) -> CameraBatch:
    """Noise pictures of cameras that look outward, evenly spread, from 1.5 m above the lidar.

    They were recorded at twice the size.
    """
    draw = np.random.default_rng(seed)
    height, width = IMAGE_SIZE
    cam2img = np.array([[80.0, 0, width, 0], [0, 80.0, height, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    lidar2cam = np.stack([_outward(2 * math.pi * index / count) for index in range(count)])
    augment = np.diag([0.5, 0.5, 1.0, 1.0])
    images = draw.integers(0, 256, (batch_size, count, 3, height, width), np.uint8)

    def stack(matrices: np.ndarray) -> torch.Tensor:
        whole = np.broadcast_to(matrices, (batch_size, count, 4, 4))
        return torch.from_numpy(whole.astype(np.float32))

    return CameraBatch(
        images=torch.from_numpy(images),
        cam2img=stack(cam2img),
        lidar2img=stack(cam2img @ lidar2cam),
        cam2lidar=stack(np.linalg.inv(lidar2cam)),
        img_aug_matrix=stack(augment),
    )


def tiny_camera_batch(boxes: tuple[int, ...] = (3, 1), count: int = 2, seed: int = 0) -> Batch:
    """`tiny_batch` with ``count`` cameras."""
    return replace(tiny_batch(boxes, seed=seed), cameras=tiny_cameras(len(boxes), count, seed))


def _outward(yaw_rad: float) -> np.ndarray:
    """Lidar frame (x ahead, z up) to the frame of a camera (z ahead, y down)."""
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    rotation = np.array([[sin, -cos, 0], [0, 0, -1], [cos, sin, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ np.array([0, 0, 1.5])
    return matrix
