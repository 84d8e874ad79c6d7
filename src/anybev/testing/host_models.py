"""mmdetection3d's own configs, made small enough for tests, and the samples that they train on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anybev.testing.indoor_samples import write_scannet, write_sunrgbd
from anybev.testing.kitti_samples import write_kitti

Options = Mapping[str, Any]
#: Writers of the data that is not nuScenes'.
WRITERS: dict[str, Callable[[Path], Path]] = {
    "kitti": write_kitti,
    "scannet": write_scannet,
    "sunrgbd": write_sunrgbd,
}


@dataclass(frozen=True)
class HostModel:
    """One of mmdetection3d's installed configs.

    Attributes:
        config: as ``tools/train.py`` takes it.
        data: ``nuscenes`` or a key of ``WRITERS``.
        small: options that make model and pictures small.
        always: options without which the config cannot run here, at any size.
        batch: samples of a step.
        wrappers: data sets around the one that reads the info file.
        objects: place of the sampler of objects in the training pipeline; None without one.
    """

    config: str
    data: str
    small: Options
    always: Options = field(default_factory=dict)
    batch: int = 2
    wrappers: int = 0
    objects: int | None = None

    def options(self, root: Path, *, full: bool = False, frames: int | None = None) -> dict:
        """Options by dotted key for the data in ``root``.

        Args:
            root: folder with the info files.
            full: leave the model and its pictures as the config has them.
            frames: train on the first ones only.
        """
        train = "train_dataloader" + ".dataset" * (1 + self.wrappers)
        found: dict[str, Any] = {
            "train_dataloader.batch_size": self.batch,
            f"{train}.data_root": f"{root}/",
            "train_cfg.max_epochs": 1,
            "train_cfg.val_interval": 1,
            "default_hooks.logger.interval": 1,
            "randomness.seed": 0,
        }
        if frames:
            found[f"{train}.indices"] = frames
        for loader in ("train", "val", "test"):
            found[f"{loader}_dataloader.num_workers"] = 0
            found[f"{loader}_dataloader.persistent_workers"] = False
        for split in ("val", "test"):
            found[f"{split}_dataloader.dataset.data_root"] = f"{root}/"
            if self.data in ("kitti", "nuscenes"):
                found[f"{split}_evaluator.ann_file"] = f"{root}/{self.data}_infos_val.pkl"
            if self.data == "nuscenes":
                found[f"{split}_evaluator.data_root"] = f"{root}/"
        if self.objects is not None:
            sampler = f"{train}.pipeline.{self.objects}.db_sampler"
            found[f"{sampler}.data_root"] = f"{root}/"
            found[f"{sampler}.info_path"] = f"{root}/{self.data}_dbinfos_train.pkl"
        return found | dict(self.always) | ({} if full else dict(self.small))


def arguments(options: Options) -> list[str]:
    """The same as ``--cfg-options`` takes it."""
    return [f"{key}={str(value).replace(' ', '')}" for key, value in options.items()]


def _pillar_voxels(size: list[float], prefix: str = "pts_") -> dict[str, Any]:
    return {
        "model.data_preprocessor.voxel_layer.voxel_size": size,
        f"model.{prefix}voxel_encoder.voxel_size": size,
    }


def _centre_grid(size: list[float], cells: list[int]) -> dict[str, Any]:
    return {
        "model.data_preprocessor.voxel_layer.voxel_size": size,
        "model.pts_bbox_head.bbox_coder.voxel_size": size[:2],
        "model.train_cfg.pts.voxel_size": size,
        "model.train_cfg.pts.grid_size": cells,
        "model.test_cfg.pts.voxel_size": size[:2],
    }


# Nearly untrained models find nothing above the config's threshold, and the devkit's evaluation
# refuses a result without any box.
_POINTPILLARS = {
    "model.test_cfg.pts.score_thr": 0.0,
    **_pillar_voxels([1.0, 1.0, 8]),
    "model.pts_voxel_encoder.feat_channels": [16, 16],
    "model.pts_middle_encoder.in_channels": 16,
    "model.pts_middle_encoder.output_shape": [100, 100],
    "model.pts_backbone.in_channels": 16,
    "model.pts_backbone.layer_nums": [1, 1, 1],
    "model.pts_backbone.out_channels": [16, 32, 32],
    "model.pts_neck.in_channels": [16, 32, 32],
    "model.pts_neck.out_channels": 32,
    "model.pts_bbox_head.in_channels": 32,
    "model.pts_bbox_head.feat_channels": 32,
}
_CENTERPOINT_VOXEL = {
    **_centre_grid([0.8, 0.8, 0.2], [128, 128, 40]),
    "model.pts_middle_encoder.sparse_shape": [41, 128, 128],
    "model.pts_bbox_head.bbox_coder.max_num": 200,  # of the 256 cells
    "model.pts_middle_encoder.output_channels": 16,
    "model.pts_middle_encoder.encoder_channels": [
        [16, 16, 16],
        [16, 16, 16],
        [16, 16, 16],
        [16, 16],
    ],
    "model.pts_backbone.in_channels": 32,
    "model.pts_backbone.out_channels": [16, 32],
    "model.pts_backbone.layer_nums": [1, 1],
    "model.pts_neck.in_channels": [16, 32],
    "model.pts_neck.out_channels": [16, 16],
    "model.pts_bbox_head.in_channels": 32,
    "model.pts_bbox_head.share_conv_channel": 16,
}
_CENTERPOINT_PILLAR = {
    **_centre_grid([0.8, 0.8, 8], [128, 128, 1]),
    "model.pts_voxel_encoder.voxel_size": [0.8, 0.8, 8],
    "model.pts_voxel_encoder.feat_channels": [16],
    "model.pts_middle_encoder.in_channels": 16,
    "model.pts_middle_encoder.output_shape": [128, 128],
    "model.pts_backbone.in_channels": 16,
    "model.pts_backbone.layer_nums": [1, 1, 1],
    "model.pts_backbone.out_channels": [16, 32, 32],
    "model.pts_neck.in_channels": [16, 32, 32],
    "model.pts_neck.out_channels": [16, 16, 16],
    "model.pts_bbox_head.in_channels": 48,
    "model.pts_bbox_head.share_conv_channel": 16,
}
_SECOND = {
    "model.data_preprocessor.voxel_layer.voxel_size": [0.275, 0.25, 0.1],
    "model.middle_encoder.sparse_shape": [41, 320, 256],
    # Anchors stand 2 m apart: the nearest one takes an object, however little they overlap.
    **{f"model.train_cfg.assigner.{i}.min_pos_iou": 0.01 for i in range(3)},
    "model.middle_encoder.base_channels": 8,
    "model.middle_encoder.output_channels": 16,
    "model.middle_encoder.encoder_channels": [[8], [8, 8, 8], [8, 8, 8], [8, 8, 8]],
    "model.backbone.in_channels": 32,
    "model.backbone.layer_nums": [1, 1],
    "model.backbone.out_channels": [16, 32],
    "model.neck.in_channels": [16, 32],
    "model.neck.out_channels": [16, 16],
    "model.bbox_head.in_channels": 32,
    "model.bbox_head.feat_channels": 32,
}
_VOTENET = {
    "model.backbone.num_points": [256, 128, 64, 32],
    "model.backbone.radius": [0.4, 0.8, 1.2, 1.6],
    "model.backbone.num_samples": [16, 8, 8, 8],
    "model.backbone.sa_channels": [[16, 16, 32], [32, 32, 32], [32, 32, 32], [32, 32, 32]],
    "model.backbone.fp_channels": [[32, 32], [32, 32]],
    "model.bbox_head.vote_module_cfg.in_channels": 32,
    "model.bbox_head.vote_module_cfg.conv_channels": [32, 32],
    "model.bbox_head.vote_aggregation_cfg.num_point": 32,
    "model.bbox_head.vote_aggregation_cfg.mlp_channels": [32, 32, 32, 32],
    "model.bbox_head.pred_layer_cfg.in_channels": 32,
    "model.bbox_head.pred_layer_cfg.shared_conv_channels": [32, 32],
}
_FCOS3D = {
    "model.test_cfg.score_thr": 0.0,
    "model.backbone.depth": 18,
    "model.backbone.dcn": None,  # a block of a shallow ResNet takes none; the head's stay
    "model.backbone.stage_with_dcn": [False, False, False, False],
    "model.backbone.base_channels": 16,
    "model.neck.in_channels": [16, 32, 64, 128],
    "model.neck.out_channels": 32,
    "model.bbox_head.in_channels": 32,
    "model.bbox_head.feat_channels": 32,
    "model.bbox_head.cls_branch": [32],
    "model.bbox_head.reg_branch": [[32], [32], [32], [32], []],
    "model.bbox_head.dir_branch": [32],
    "model.bbox_head.attr_branch": [32],
    # Of a picture a quarter as wide.
    "model.bbox_head.regress_ranges": ((-1, 12), (12, 24), (24, 48), (48, 96), (96, 1e8)),
    "train_dataloader.dataset.pipeline.2.scale": (400, 225),
}

MODELS = {
    "pointpillars": HostModel(
        "mmdet3d::pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py",
        "nuscenes",
        _POINTPILLARS,
    ),
    "second": HostModel(
        "mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py",
        "kitti",
        _SECOND,
        wrappers=1,
        objects=2,
    ),
    "centerpoint-voxel": HostModel(
        "mmdet3d::centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
        "nuscenes",
        _CENTERPOINT_VOXEL,
        wrappers=1,
        objects=3,
    ),
    "centerpoint-pillar": HostModel(
        "mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
        "nuscenes",
        _CENTERPOINT_PILLAR,
        wrappers=1,
        objects=3,
    ),
    "votenet-scannet": HostModel(
        "mmdet3d::votenet/votenet_8xb8_scannet-3d.py",
        "scannet",
        _VOTENET | {"train_dataloader.dataset.dataset.pipeline.4.num_points": 1024},
        wrappers=1,
    ),
    "votenet-sunrgbd": HostModel(
        "mmdet3d::votenet/votenet_8xb16_sunrgbd-3d.py",
        "sunrgbd",
        _VOTENET | {"train_dataloader.dataset.dataset.pipeline.4.num_points": 1024},
        wrappers=1,
    ),
    "fcos3d": HostModel(
        "mmdet3d::fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py",
        "nuscenes",
        _FCOS3D,
        # The config's weights lie on a server; without them its frozen norms would begin at zero.
        {"model.backbone.init_cfg": None, "model.backbone.zero_init_residual": False},
    ),
}
