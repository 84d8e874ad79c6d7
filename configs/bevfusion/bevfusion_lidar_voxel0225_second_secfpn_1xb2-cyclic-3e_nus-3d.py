# A BEVFusion small enough to train on two CPU cores in minutes: 0.225 m voxels, 120 x 120 map cells
# of 0.9 m. For the synthetic scenes of the demo.
_base_ = [
    "../_base_/models/bevfusion_lidar_voxel0075_second_secfpn.py",
    "../_base_/datasets/nus-3d.py",
    "../_base_/default_runtime.py",
]
point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
voxel_size = [0.225, 0.225, 0.2]
grid_size = [480, 480, 41]
out_size_factor = 4
hidden = 64
# Running statistics must catch up within a few hundred steps: at upstream's 0.01 a short run scores
# next to nothing although its training loss is low.
_norm = dict(momentum=0.1)
_attention = dict(embed_dims=hidden, num_heads=4, dropout=0.0)
model = dict(
    data_preprocessor=dict(
        voxelize_cfg=dict(voxel_size=voxel_size, max_voxels=[60000, 60000]),
    ),
    pts_middle_encoder=dict(
        sparse_shape=grid_size,
        base_channels=16,
        output_channels=16,
        encoder_channels=((16, 16, 32), (32, 32, 48), (48, 48)),
        encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0)),
        norm_cfg=_norm,
    ),
    pts_backbone=dict(
        in_channels=80,
        out_channels=[64, 96],
        layer_nums=[2, 3],
        layer_strides=[1, 2],
        norm_cfg=_norm,
    ),
    pts_neck=dict(in_channels=[64, 96], out_channels=[64, 64], norm_cfg=_norm),
    bbox_head=dict(
        in_channels=128,
        hidden_channel=hidden,
        num_proposals=150,
        heatmap_init_bias=-2.19,
        decoder_layer=dict(
            self_attn_cfg=_attention,
            cross_attn_cfg=_attention,
            ffn_cfg=dict(embed_dims=hidden, feedforward_channels=128, ffn_drop=0.0),
            pos_encoding_cfg=dict(num_pos_feats=hidden),
        ),
        train_cfg=dict(grid_size=grid_size, voxel_size=voxel_size, out_size_factor=out_size_factor),
        test_cfg=dict(
            grid_size=grid_size, voxel_size=voxel_size[:2], out_size_factor=out_size_factor
        ),
        bbox_coder=dict(voxel_size=voxel_size[:2], out_size_factor=out_size_factor),
    ),
)
load_points = dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5)
load_sweeps = dict(
    type="LoadPointsFromMultiSweeps",
    sweeps_num=4,
    load_dim=5,
    use_dim=5,
    pad_empty_sweeps=True,
    remove_close=True,
    sweep_choice="nearest",
)
class_names = {{_base_.class_names}}
train_pipeline = [
    load_points,
    load_sweeps,
    dict(type="LoadAnnotations3D"),
    dict(
        type="GlobalRotScaleTrans",
        rot_range=[-0.785, 0.785],
        scale_ratio_range=[0.95, 1.05],
        translation_std=[0.2, 0.2, 0.2],
    ),
    dict(type="BEVFusionRandomFlip3D"),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectNameFilter", classes=class_names),
    dict(type="PointShuffle"),
]
test_pipeline = [
    load_points,
    load_sweeps,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
]
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="EpochSampler", shuffle=True, batch_size=2, drop_last=True),
    dataset=dict(
        type="NuScenesDataset",
        data_root={{_base_.data_root}},
        ann_file="nuscenes_infos_train.pkl",
        pipeline=train_pipeline,
        metainfo={{_base_.metainfo}},
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
epochs = 3
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.002, weight_decay=0.01),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(
        type="OneCycleLR",
        eta_max=0.002,
        total_steps=epochs,
        pct_start=0.3,
        div_factor=10,
        final_div_factor=100,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
default_hooks = dict(logger=dict(interval=20))
train_cfg = dict(type="ResumableEpochLoop", max_epochs=epochs, val_interval=epochs)
val_cfg = dict(type="TimedValLoop")
test_cfg = dict(type="TimedTestLoop")
