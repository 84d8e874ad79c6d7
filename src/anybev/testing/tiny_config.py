"""A config that trains in seconds: the small lidar model, coarser and narrower."""

from pathlib import Path

import anybev
from anybev.demo import SMALL_CONFIGS, config_options

CONFIG_FILE = Path(anybev.__file__).parent / SMALL_CONFIGS["lidar"]

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


def tiny_options(root: Path, seed: int = 0, **more: str) -> list[str]:
    """``--cfg-options`` of the tiny model on the data in ``root``.

    Args:
        root: folder with info files in nuScenes layout.
        seed: of training.
        **more: further options, dots as double underscores.
    """
    options = _OPTIONS | {key.replace("__", "."): value for key, value in more.items()}
    return [*config_options(root, seed), *(f"{key}={value}" for key, value in options.items())]
