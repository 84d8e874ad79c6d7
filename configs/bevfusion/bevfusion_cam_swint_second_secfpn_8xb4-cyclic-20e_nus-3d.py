# BEVFusion on six cameras alone. mmdetection3d has no such config and nobody has published numbers
# for this one: a place to start from. Schedule and augmentation follow the cameras-only recipe of
# the original repository (mit-han-lab/bevfusion), whose head is another one.
_base_ = [
    "../_base_/models/bevfusion_cam_swint_second_secfpn.py",
    "../_base_/datasets/nus-3d-cam.py",
    "../_base_/default_runtime.py",
]
point_cloud_range = {{_base_.point_cloud_range}}
train_pipeline = [
    {{_base_.load_images}},
    dict(type="LoadAnnotations3D"),
    {{_base_.train_images}},
    dict(
        type="BEVFusionGlobalRotScaleTrans",
        rot_range=[-0.3925, 0.3925],
        scale_ratio_range=[0.95, 1.05],
        translation_std=[0.0, 0.0, 0.0],
    ),
    dict(type="BEVFusionRandomFlip3D"),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectNameFilter", classes={{_base_.class_names}}),
]
test_pipeline = [{{_base_.load_images}}, {{_base_.test_images}}]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(modality=dict(use_lidar=False))
test_evaluator = val_evaluator
lr = 0.0002
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=lr, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
    paramwise_cfg=dict(
        custom_keys={
            "img_backbone": dict(lr_mult=0.1),
            "relative_position_bias_table": dict(lr_mult=0.1, decay_mult=0.0),
        }
    ),
)
# Ratios, not absolute values: an absolute eta_min would lift the backbone to the rate of the rest.
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        T_max=8,
        eta_min_ratio=5.0,
        begin=0,
        end=8,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        T_max=12,
        eta_min_ratio=1e-4,
        begin=8,
        end=20,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum",
        T_max=8,
        eta_min=0.85 / 0.95,
        begin=0,
        end=8,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum",
        T_max=12,
        eta_min=1,
        begin=8,
        end=20,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(interval=5))
train_cfg = dict(type="ResumableEpochLoop", max_epochs=20, val_interval=5)
val_cfg = dict(type="TimedValLoop")
test_cfg = dict(type="TimedTestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=32)
find_unused_parameters = False
