# For the regression gate: the demo's lidar-camera model, coarser and narrower, learns one scene by
# heart in 200 steps without augmentation. It is scored on the frames it has seen: its numbers say
# whether the code still does what it did, and nothing about how good a detector is.
_base_ = ["./bevfusion_lidar-cam_voxel0225_second_secfpn_1xb2-cyclic-3e_nus-3d.py"]
image_size = [64, 176]
grid_size, voxel_size = [120, 120, 21], [0.9, 0.9, 0.4]
camera_channels, lidar_channels = 8, 16
model = dict(
    data_preprocessor=dict(
        # A few voxels, drawn anew each time: too little for the lidar branch to do without cameras.
        voxelize_cfg=dict(voxel_size=voxel_size, max_voxels=[600, 600]),
    ),
    img_backbone=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    img_neck=dict(in_channels=[16, 32, 64], out_channels=16),
    view_transform=dict(
        in_channels=16,
        out_channels=camera_channels,
        image_size=image_size,
        feature_size=[8, 22],
        xbound=[-54.0, 54.0, 1.8],
        ybound=[-54.0, 54.0, 1.8],
        dbound=[1.0, 60.0, 4.0],
    ),
    pts_middle_encoder=dict(
        sparse_shape=grid_size,
        base_channels=8,
        output_channels=8,
        encoder_channels=((8, 8, 8), (8, 8, 8), (8, 8)),
    ),
    fusion_layer=dict(in_channels=[camera_channels, lidar_channels], out_channels=lidar_channels),
    pts_backbone=dict(in_channels=lidar_channels, out_channels=[16, 16], layer_nums=[1, 1]),
    pts_neck=dict(in_channels=[16, 16], out_channels=[16, 16]),
    bbox_head=dict(
        in_channels=32,
        num_proposals=40,
        train_cfg=dict(grid_size=grid_size, voxel_size=voxel_size),
        test_cfg=dict(grid_size=grid_size, voxel_size=voxel_size[:2]),
        bbox_coder=dict(voxel_size=voxel_size[:2]),
    ),
)
point_cloud_range = {{_base_.point_cloud_range}}
still = dict(
    type="ImageAug3D",
    final_dim=image_size,
    resize_lim=[0.48, 0.48],
    bot_pct_lim=[0.0, 0.0],
    rot_lim=[0.0, 0.0],
    rand_flip=False,
    is_train=False,
    resampler="fast",
)
load = [{{_base_.load_images}}, {{_base_.load_points}}, {{_base_.load_sweeps}}]
train_pipeline = [
    *load,
    dict(type="LoadAnnotations3D"),
    still,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectNameFilter", classes={{_base_.class_names}}),
    dict(type="PointShuffle"),
]
test_pipeline = [
    *load,
    still,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="PointShuffle"),
]
quick = dict(num_workers=1, persistent_workers=True)
train_dataloader = dict(
    batch_size=4, sampler=dict(batch_size=4), dataset=dict(pipeline=train_pipeline), **quick
)
seen_frames = dict(ann_file="nuscenes_infos_train.pkl", pipeline=test_pipeline)
val_dataloader = dict(dataset=seen_frames, **quick)
test_dataloader = val_dataloader
val_evaluator = dict(split="train", ann_file="data/nuscenes/nuscenes_infos_train.pkl")
test_evaluator = val_evaluator
epochs = 40
param_scheduler = [
    dict(
        type="OneCycleLR",
        eta_max=0.006,
        total_steps=epochs,
        pct_start=0.3,
        div_factor=10,
        final_div_factor=100,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(interval=epochs))
