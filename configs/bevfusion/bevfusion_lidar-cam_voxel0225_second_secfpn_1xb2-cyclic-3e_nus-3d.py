# The small lidar BEVFusion and six cameras at 128 x 352 pixels: trains on two cores in minutes.
# For the synthetic scenes of the demo, whose pictures are half as wide and high as nuScenes'.
_base_ = ["./bevfusion_lidar_voxel0225_second_secfpn_1xb2-cyclic-3e_nus-3d.py"]
# load_from may name a checkpoint of the small lidar config, as in the two-stage recipe.
load_from_may_lack = ["img_backbone", "img_neck", "view_transform", "fusion_layer"]
image_size = [128, 352]
feature_size = [16, 44]
camera_channels, lidar_channels = 32, 80
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=False,
    ),
    img_backbone=dict(
        type="mmdet.SwinTransformer",
        embed_dims=32,
        depths=[1, 2, 1, 1],
        num_heads=[1, 2, 4, 8],
        window_size=7,
        mlp_ratio=2,
        drop_path_rate=0.0,
        out_indices=[1, 2, 3],
    ),
    img_neck=dict(
        type="GeneralizedLSSFPN",
        in_channels=[64, 128, 256],
        out_channels=64,
        start_level=0,
        num_outs=3,
        norm_cfg=dict(type="BN2d", requires_grad=True),
        act_cfg=dict(type="ReLU", inplace=True),
        upsample_cfg=dict(mode="bilinear", align_corners=False),
    ),
    view_transform=dict(
        type="DepthLSSTransform",
        in_channels=64,
        out_channels=camera_channels,
        image_size=image_size,
        feature_size=feature_size,
        xbound=[-54.0, 54.0, 0.45],
        ybound=[-54.0, 54.0, 0.45],
        zbound=[-10.0, 10.0, 20.0],
        dbound=[1.0, 60.0, 1.0],
        downsample=2,
        average=True,
        lidar_depth_gain=3.0,
    ),
    fusion_layer=dict(
        type="ConvFuser",
        in_channels=[camera_channels, lidar_channels],
        out_channels=lidar_channels,
    ),
)
point_cloud_range = {{_base_.point_cloud_range}}
class_names = {{_base_.class_names}}
load_images = dict(
    type="BEVLoadMultiViewImageFromFiles", to_float32=True, color_type="color", decoder="fast"
)
train_pipeline = [
    load_images,
    {{_base_.load_points}},
    {{_base_.load_sweeps}},
    dict(type="LoadAnnotations3D"),
    dict(
        type="ImageAug3D",
        final_dim=image_size,
        resize_lim=[0.44, 0.52],
        bot_pct_lim=[0.0, 0.0],
        rot_lim=[0.0, 0.0],
        rand_flip=True,
        is_train=True,
        resampler="fast",
    ),
    dict(
        type="BEVFusionGlobalRotScaleTrans",
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
    load_images,
    {{_base_.load_points}},
    {{_base_.load_sweeps}},
    dict(
        type="ImageAug3D",
        final_dim=image_size,
        resize_lim=[0.48, 0.48],
        bot_pct_lim=[0.0, 0.0],
        rot_lim=[0.0, 0.0],
        rand_flip=False,
        is_train=False,
        resampler="fast",
    ),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
]
modality = dict(use_lidar=True, use_camera=True)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, modality=modality))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, modality=modality))
test_dataloader = val_dataloader
val_evaluator = dict(modality=modality)
test_evaluator = val_evaluator
