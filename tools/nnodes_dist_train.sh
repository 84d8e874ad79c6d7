#!/usr/bin/env bash
# DrivingSDK's: tools/nnodes_dist_train.sh CONFIG PROCESSES NNODES NODE_RANK PORT MASTER_ADDR
#   [flags of tools/train.py], on each node
set -euo pipefail
(($# >= 6)) || {
  echo "usage: $0 CONFIG PROCESSES NNODES NODE_RANK PORT MASTER_ADDR [flags of tools/train.py]" >&2
  exit 2
}
NNODES=$3 NODE_RANK=$4 PORT=$5 MASTER_ADDR=$6
export NNODES NODE_RANK PORT MASTER_ADDR
exec bash "$(dirname "${BASH_SOURCE[0]}")/dist_train.sh" "$1" "$2" "${@:7}"
