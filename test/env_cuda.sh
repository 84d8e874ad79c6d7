#!/usr/bin/env bash
# What a training on NVIDIA GPUs sets, for both precisions; a value that is set already stays.

# Operators slower than declared are an error: a fallback would be measured as if it were normal.
export ANYBEV_REQUIRE_NATIVE=${ANYBEV_REQUIRE_NATIVE:-1}
# The allocator grows segments in place: less fragmentation from frames of different sizes.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
# NCCL says what goes wrong, and nothing else.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
