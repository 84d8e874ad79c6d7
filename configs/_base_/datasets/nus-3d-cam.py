# nuScenes, lidar and six cameras: as nus-3d.py with pictures, without object sampling (nothing can
# be pasted into the pictures).
_base_ = ["./nus-3d.py"]
input_modality = dict(use_lidar=True, use_camera=True)
camera_prefix = dict(
    CAM_FRONT="samples/CAM_FRONT",
    CAM_FRONT_RIGHT="samples/CAM_FRONT_RIGHT",
    CAM_FRONT_LEFT="samples/CAM_FRONT_LEFT",
    CAM_BACK="samples/CAM_BACK",
    CAM_BACK_LEFT="samples/CAM_BACK_LEFT",
    CAM_BACK_RIGHT="samples/CAM_BACK_RIGHT",
)
final_dim = [256, 704]  # image_size of the model
load_images = dict(type="BEVLoadMultiViewImageFromFiles", to_float32=True, color_type="color")
train_images = dict(  # drawn for each camera by itself
    type="ImageAug3D",
    final_dim=final_dim,
    resize_lim=[0.38, 0.55],
    bot_pct_lim=[0.0, 0.0],
    rot_lim=[-5.4, 5.4],
    rand_flip=True,
    is_train=True,
)
test_images = dict(
    type="ImageAug3D",
    final_dim=final_dim,
    resize_lim=[0.48, 0.48],
    bot_pct_lim=[0.0, 0.0],
    rot_lim=[0.0, 0.0],
    rand_flip=False,
    is_train=False,
)
train_pipeline = [
    load_images,
    {{_base_.load_points}},
    {{_base_.load_sweeps}},
    dict(type="LoadAnnotations3D"),
    train_images,
    dict(
        type="BEVFusionGlobalRotScaleTrans",
        rot_range=[-0.785, 0.785],
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.5],
    ),
    dict(type="BEVFusionRandomFlip3D"),
    dict(type="PointsRangeFilter", point_cloud_range={{_base_.detection_range}}),
    dict(type="ObjectRangeFilter", point_cloud_range={{_base_.detection_range}}),
    dict(type="ObjectNameFilter", classes={{_base_.class_names}}),
    dict(  # as published: with probability 0 it does nothing
        type="GridMask",
        use_h=True,
        use_w=True,
        max_epoch=6,
        rotate=1,
        offset=False,
        ratio=0.5,
        mode=1,
        prob=0.0,
        fixed_prob=True,
    ),
    dict(type="PointShuffle"),
]
test_pipeline = [
    load_images,
    {{_base_.load_points}},
    {{_base_.load_sweeps}},
    test_images,
    dict(type="PointsRangeFilter", point_cloud_range={{_base_.detection_range}}),
]
train_dataloader = dict(
    dataset=dict(
        dataset=dict(pipeline=train_pipeline, modality=input_modality, data_prefix=camera_prefix)
    )
)
val_dataloader = dict(
    dataset=dict(pipeline=test_pipeline, modality=input_modality, data_prefix=camera_prefix)
)
test_dataloader = val_dataloader
val_evaluator = dict(modality=input_modality)
test_evaluator = val_evaluator
