# BEVFusion with six cameras beside the lidar: Swin-T at 256 x 704, lifted onto the same map.
_base_ = ["./bevfusion_lidar_voxel0075_second_secfpn.py"]
image_size = [256, 704]
feature_size = [32, 88]  # image_size / 8, the stride of the neck's finest map
camera_channels, lidar_channels = 80, 256

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=False,
    ),
    img_backbone=dict(
        type="mmdet.SwinTransformer",
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        mlp_ratio=4,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.2,
        patch_norm=True,
        out_indices=[1, 2, 3],
        with_cp=False,
        convert_weights=True,
        # Read when training starts, not at test time; nothing is downloaded. A file of this name is
        # looked for in ANYBEV_WEIGHTS; see docs/checkpoints.md.
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
            "swin_tiny_patch4_window7_224.pth",
        ),
    ),
    img_neck=dict(
        type="GeneralizedLSSFPN",
        in_channels=[192, 384, 768],
        out_channels=256,
        start_level=0,
        num_outs=3,
        norm_cfg=dict(type="BN2d", requires_grad=True),
        act_cfg=dict(type="ReLU", inplace=True),
        upsample_cfg=dict(mode="bilinear", align_corners=False),
    ),
    view_transform=dict(
        type="DepthLSSTransform",
        in_channels=256,
        out_channels=camera_channels,
        image_size=image_size,
        feature_size=feature_size,
        xbound=[-54.0, 54.0, 0.3],
        ybound=[-54.0, 54.0, 0.3],
        zbound=[-10.0, 10.0, 20.0],
        dbound=[1.0, 60.0, 0.5],
        downsample=2,
    ),
    fusion_layer=dict(
        type="ConvFuser", in_channels=[camera_channels, lidar_channels], out_channels=256
    ),
)
