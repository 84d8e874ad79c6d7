# BEVFusion on six cameras alone: the same map and head, depth from the pictures only.
_base_ = ["./bevfusion_lidar-cam_voxel0075_second_secfpn.py"]
model = dict(
    pts_voxel_encoder=None,
    pts_middle_encoder=None,
    fusion_layer=None,
    view_transform=dict(type="LSSTransform"),
    pts_backbone=dict(in_channels={{_base_.camera_channels}}),
)
