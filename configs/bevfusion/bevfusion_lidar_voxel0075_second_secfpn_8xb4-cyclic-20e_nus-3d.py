# BEVFusion on lidar alone, as published: 8 devices x 4 samples, 20 epochs.
_base_ = [
    "../_base_/models/bevfusion_lidar_voxel0075_second_secfpn.py",
    "../_base_/datasets/nus-3d.py",
    "../_base_/schedules/cyclic-20e.py",
    "../_base_/default_runtime.py",
]
default_hooks = dict(checkpoint=dict(interval=5))
