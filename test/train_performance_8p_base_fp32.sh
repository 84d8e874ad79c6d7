#!/usr/bin/env bash
# Speed, 1 epoch, FP32: 8 processes on one node.
KIND=performance
PRECISION=fp32
NETWORK=BEVFusion
CONFIG=configs/bevfusion/bevfusion_lidar-cam_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py
source "$(dirname "${BASH_SOURCE[0]}")/common/launch.sh"
