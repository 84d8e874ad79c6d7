# BEVFusion on lidar and six cameras, as published: the second of two stages, 8 devices x 4 samples,
# 6 epochs (the 20 of the file's name are mmdetection3d's). docs/checkpoints.md has the commands.
_base_ = [
    "../_base_/models/bevfusion_lidar-cam_voxel0075_second_secfpn.py",
    "../_base_/datasets/nus-3d-cam.py",
    "../_base_/schedules/cosine-6e.py",
    "../_base_/default_runtime.py",
]
# The checkpoint of stage one, from the lidar config: --cfg-options load_from=FILE. It fills every
# part but those below, each of which must be in the file whole or not at all. Left at None, the
# lidar branch starts from random weights too. Testing takes no part as missing.
load_from = None
load_from_may_lack = ["img_backbone", "img_neck", "view_transform", "fusion_layer"]
find_unused_parameters = False
