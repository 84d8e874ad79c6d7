# Six epochs from a lidar checkpoint: a linear warm-up of 500 iterations times one cosine fall.
# beta1 falls until 2.4 epochs and rises after; its eta_min are absolute, as in the published runs.
lr = 0.0002
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=lr, weight_decay=0.01),  # decay on every parameter
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.33333333, by_epoch=False, begin=0, end=500),
    dict(
        type="CosineAnnealingLR",
        T_max=6,
        eta_min_ratio=1e-4,
        begin=0,
        end=6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum",
        eta_min=0.85 / 0.95,
        begin=0,
        end=2.4,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingMomentum",
        eta_min=1,
        begin=2.4,
        end=6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=6, val_interval=1)
val_cfg = dict(type="TimedValLoop")
test_cfg = dict(type="TimedTestLoop")
# 8 devices x 4 samples; --auto-scale-lr scales the rate when the global batch differs.
auto_scale_lr = dict(enable=False, base_batch_size=32)
