"""A config that trains in seconds: the small lidar model, coarser and narrower."""

import ast
from pathlib import Path
from typing import Any

import anybev
from anybev.demo import SMALL_CONFIGS, config_options

CONFIG_FILE = Path(anybev.__file__).parent / SMALL_CONFIGS["lidar"]
CAMERA_CONFIG_FILE = Path(anybev.__file__).parent / SMALL_CONFIGS["lidar-cam"]

_OPTIONS = {
    "model.data_preprocessor.voxelize_cfg.voxel_size": "[0.9,0.9,0.4]",
    "model.data_preprocessor.voxelize_cfg.max_voxels": "[6000,6000]",
    "model.pts_middle_encoder.sparse_shape": "[120,120,21]",
    "model.pts_middle_encoder.base_channels": "8",
    "model.pts_middle_encoder.output_channels": "8",
    "model.pts_middle_encoder.encoder_channels": "[[8,8,8],[8,8,8],[8,8]]",
    "model.pts_backbone.in_channels": "16",
    "model.pts_backbone.out_channels": "[16,16]",
    "model.pts_backbone.layer_nums": "[1,1]",
    "model.pts_neck.in_channels": "[16,16]",
    "model.pts_neck.out_channels": "[16,16]",
    "model.bbox_head.in_channels": "32",
    "model.bbox_head.num_proposals": "40",
    "model.bbox_head.train_cfg.grid_size": "[120,120,21]",
    "model.bbox_head.train_cfg.voxel_size": "[0.9,0.9,0.4]",
    "model.bbox_head.test_cfg.grid_size": "[120,120,21]",
    "model.bbox_head.test_cfg.voxel_size": "[0.9,0.9]",
    "model.bbox_head.bbox_coder.voxel_size": "[0.9,0.9]",
    "train_dataloader.batch_size": "4",
    "train_dataloader.sampler.batch_size": "4",
    "train_dataloader.num_workers": "0",
    "train_dataloader.persistent_workers": "False",
    "val_dataloader.num_workers": "0",
    "val_dataloader.persistent_workers": "False",
    "test_dataloader.num_workers": "0",
    "test_dataloader.persistent_workers": "False",
    "default_hooks.logger.interval": "1",
}

# Of the camera config, in addition: six pictures of 64 x 176.
_CAMERA_OPTIONS = {
    "model.img_backbone.embed_dims": "8",
    "model.img_backbone.depths": "[1,1,1,1]",
    "model.img_backbone.num_heads": "[1,1,2,2]",
    "model.img_neck.in_channels": "[16,32,64]",
    "model.img_neck.out_channels": "16",
    "model.view_transform.in_channels": "16",
    "model.view_transform.out_channels": "8",
    "model.view_transform.image_size": "[64,176]",
    "model.view_transform.feature_size": "[8,22]",
    "model.view_transform.xbound": "[-54.0,54.0,1.8]",
    "model.view_transform.ybound": "[-54.0,54.0,1.8]",
    "model.view_transform.dbound": "[1.0,60.0,4.0]",
    "model.fusion_layer.in_channels": "[8,16]",
    "model.fusion_layer.out_channels": "16",
    "train_dataloader.dataset.pipeline.4.final_dim": "[64,176]",
    "val_dataloader.dataset.pipeline.3.final_dim": "[64,176]",
    "test_dataloader.dataset.pipeline.3.final_dim": "[64,176]",
}


def tiny_model_options(*, cameras: bool) -> dict[str, Any]:
    """The tiny model's settings alone, by dotted key, for any config of the same model."""
    options = _OPTIONS | (_CAMERA_OPTIONS if cameras else {})
    return {
        key: ast.literal_eval(value) for key, value in options.items() if key.startswith("model.")
    }


def tiny_camera_options(root: Path, seed: int = 0, **more: str) -> list[str]:
    """As ``tiny_options``, for ``CAMERA_CONFIG_FILE``; pictures are a quarter of nuScenes'."""
    known = {key.replace(".", "__"): value for key, value in _CAMERA_OPTIONS.items()}
    return tiny_options(root, seed, **(known | more))


def tiny_options(root: Path, seed: int = 0, **more: str) -> list[str]:
    """``--cfg-options`` of the tiny model on the data in ``root``.

    Args:
        root: folder with info files in nuScenes layout.
        seed: of training.
        **more: further options, dots as double underscores.
    """
    options = _OPTIONS | {key.replace("__", "."): value for key, value in more.items()}
    return [*config_options(root, seed), *(f"{key}={value}" for key, value in options.items())]
