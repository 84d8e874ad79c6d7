"""A BEVFusion small enough to be checked in a second: 2 m cells, a grid that is not square."""

from typing import Any

import numpy as np
import torch

from anybev.datasets.sample import Batch

POINT_CLOUD_RANGE = [-16.0, -24.0, -5.0, 16.0, 24.0, 3.0]
MAP_SIZE = (16, 24)


def tiny_model_cfg(*, velocity: bool = True, **head: Any) -> dict[str, Any]:
    """Model config in mmdetection3d's words; ``head`` overrides the head's arguments."""
    grid, voxel, factor, hidden = [64, 96, 41], [0.5, 0.5, 0.2], 4, 16
    attention = {"embed_dims": hidden, "num_heads": 2, "dropout": 0.1}
    common = {"center": [2, 2], "height": [1, 2], "dim": [3, 2], "rot": [2, 2]}
    bbox_head = {
        "type": "TransFusionHead",
        "num_proposals": 12,
        "in_channels": 32,
        "hidden_channel": hidden,
        "num_classes": 10,
        "decoder_layer": {
            "type": "TransformerDecoderLayer",
            "self_attn_cfg": attention,
            "cross_attn_cfg": attention,
            "ffn_cfg": {"embed_dims": hidden, "feedforward_channels": 32, "ffn_drop": 0.1},
            "norm_cfg": {"type": "LN"},
            "pos_encoding_cfg": {"input_channel": 2, "num_pos_feats": hidden},
        },
        "common_heads": common | ({"vel": [2, 2]} if velocity else {}),
        "bbox_coder": {
            "type": "TransFusionBBoxCoder",
            "pc_range": POINT_CLOUD_RANGE[:2],
            "post_center_range": [-20.0, -28.0, -10.0, 20.0, 28.0, 10.0],
            "score_threshold": 0.0,
            "out_size_factor": factor,
            "voxel_size": voxel[:2],
            "code_size": 10 if velocity else 8,
        },
        "train_cfg": {
            "point_cloud_range": POINT_CLOUD_RANGE,
            "grid_size": grid,
            "voxel_size": voxel,
            "out_size_factor": factor,
            "code_weights": [1.0] * 8 + ([0.2, 0.2] if velocity else []),
            "assigner": {
                "type": "HungarianAssigner3D",
                "cls_cost": {"type": "mmdet.FocalLossCost", "weight": 0.15},
                "reg_cost": {"type": "BBoxBEVL1Cost", "weight": 0.25},
                "iou_cost": {"type": "IoU3DCost", "weight": 0.25},
            },
        },
        "test_cfg": {"grid_size": grid, "out_size_factor": factor, "nms_type": None},
        "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True},
        "loss_heatmap": {"type": "mmdet.GaussianFocalLoss"},
        "loss_bbox": {"type": "mmdet.L1Loss", "loss_weight": 0.25},
    }
    return {
        "type": "BEVFusion",
        "data_preprocessor": {
            "type": "Det3DDataPreprocessor",
            "voxelize_cfg": {
                "max_num_points": 10,
                "point_cloud_range": POINT_CLOUD_RANGE,
                "voxel_size": voxel,
                "max_voxels": [4000, 5000],
            },
        },
        "pts_voxel_encoder": {"type": "HardSimpleVFE", "num_features": 5},
        "pts_middle_encoder": {
            "type": "BEVFusionSparseEncoder",
            "in_channels": 5,
            "sparse_shape": grid,
            "base_channels": 8,
            "output_channels": 8,
            "encoder_channels": ((8, 16), (16, 16), (16,)),
            "encoder_paddings": ((0, 1), (0, 1), (0,)),
            "block_type": "basicblock",
        },
        "pts_backbone": {
            "type": "SECOND",
            "in_channels": 40,
            "out_channels": [16, 24],
            "layer_nums": [1, 1],
            "layer_strides": [1, 2],
        },
        "pts_neck": {
            "type": "SECONDFPN",
            "in_channels": [16, 24],
            "out_channels": [16, 16],
            "upsample_strides": [1, 2],
            "use_conv_for_no_stride": True,
        },
        "bbox_head": bbox_head | head,
    }


def tiny_batch(boxes: tuple[int, ...] = (3, 1), points: int = 1500, seed: int = 0) -> Batch:
    """Random points and, in sample i, ``boxes[i]`` random boxes."""
    draw = np.random.default_rng(seed)
    low, high = np.array(POINT_CLOUD_RANGE[:3]), np.array(POINT_CLOUD_RANGE[3:])
    clouds, frames, labels = [], [], []
    for count in boxes:
        xyz = draw.uniform(low, high, (points, 3))
        rest = np.stack([draw.uniform(0, 255, points), draw.uniform(0, 0.5, points)], axis=1)
        clouds.append(torch.from_numpy(np.hstack([xyz, rest]).astype(np.float32)))
        center = draw.uniform(low * 0.9, high * 0.9, (count, 3))
        size, yaw = draw.uniform(0.6, 5, (count, 3)), draw.uniform(-3, 3, (count, 1))
        speed = draw.normal(0, 2, (count, 2))
        frames.append(torch.from_numpy(np.hstack([center, size, yaw, speed]).astype(np.float32)))
        labels.append(torch.from_numpy(draw.integers(0, 10, count)))
    return Batch(
        points_lidar_m=clouds,
        boxes_lidar=frames,
        labels=labels,
        tokens=[f"sample{i}" for i in range(len(boxes))],
        lidar_aug_matrix=torch.eye(4).expand(len(boxes), 4, 4).clone(),
    )
