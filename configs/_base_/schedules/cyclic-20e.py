# One cycle over 20 epochs: the learning rate rises for 8, falls for 12; beta1 mirrors it.
# Both eta_min are absolute values, as in the published runs.
lr = 0.0001
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=lr, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        T_max=8,
        eta_min=lr * 10,
        begin=0,
        end=8,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        T_max=12,
        eta_min=lr * 1e-4,
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
train_cfg = dict(type="ResumableEpochLoop", max_epochs=20, val_interval=5)
val_cfg = dict(type="TimedValLoop")
test_cfg = dict(type="TimedTestLoop")
# 8 devices x 4 samples; --auto-scale-lr scales the rate when the global batch differs.
auto_scale_lr = dict(enable=False, base_batch_size=32)
