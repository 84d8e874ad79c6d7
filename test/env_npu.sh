#!/usr/bin/env bash
# What a training on Ascend NPUs sets, for both precisions; a value that is set already stays.
# HCCL_IF_IP is left out on purpose: HCCL finds the address, and a guess from `hostname -I` is wrong
# on hosts with several networks.

# Operators slower than declared are an error: a fallback would be measured as if it were normal.
# None has a kernel for this device declared yet, so all run on their PyTorch references.
export ANYBEV_REQUIRE_NATIVE=${ANYBEV_REQUIRE_NATIVE:-1}
# The allocator grows segments in place: less fragmentation from frames of different sizes.
export PYTORCH_NPU_ALLOC_CONF=${PYTORCH_NPU_ALLOC_CONF:-expandable_segments:True}
# Operators are queued in two stages, so that the host runs ahead of the device.
export TASK_QUEUE_ENABLE=${TASK_QUEUE_ENABLE:-2}
# Chains of views are made contiguous in one go.
export COMBINED_ENABLE=${COMBINED_ENABLE:-1}
# Each process keeps to the cores near its device.
export CPU_AFFINITY_CONF=${CPU_AFFINITY_CONF:-2}
# Compiled operators are kept: points and boxes come in many shapes.
export ACLNN_CACHE_LIMIT=${ACLNN_CACHE_LIMIT:-100000}
# Devices of different hosts connect without a list of allowed ones.
export HCCL_WHITELIST_DISABLE=${HCCL_WHITELIST_DISABLE:-1}
# Seconds to connect: ranks that read data or compile first arrive minutes apart.
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-1200}
# The device's log keeps errors alone and stays out of the training's output.
export ASCEND_GLOBAL_LOG_LEVEL=${ASCEND_GLOBAL_LOG_LEVEL:-3}
export ASCEND_GLOBAL_EVENT_ENABLE=${ASCEND_GLOBAL_EVENT_ENABLE:-0}
export ASCEND_SLOG_PRINT_TO_STDOUT=${ASCEND_SLOG_PRINT_TO_STDOUT:-0}
