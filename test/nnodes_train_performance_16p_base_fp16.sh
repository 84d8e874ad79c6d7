#!/usr/bin/env bash
# Speed, 1 epoch, FP16: 16 processes on two nodes; run it on each, with --node-rank and --master-addr.
KIND=performance
PRECISION=fp16
NETWORK=BEVFusion
CONFIG=configs/bevfusion/bevfusion_lidar-cam_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py
source "$(dirname "${BASH_SOURCE[0]}")/common/launch.sh"
