#!/usr/bin/env bash
# mmdetection3d's: tools/dist_train.sh CONFIG PROCESSES [flags of tools/train.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT are read from the environment, as there.
set -euo pipefail
(($# >= 2)) || {
  echo "usage: $0 CONFIG PROCESSES [flags of tools/train.py]" >&2
  exit 2
}
options=(--config "$1" --num-npu "$2")
[[ -z ${NNODES:-} ]] || options+=(--nnodes "$NNODES")
[[ -z ${NODE_RANK:-} ]] || options+=(--node-rank "$NODE_RANK")
[[ -z ${MASTER_ADDR:-} ]] || options+=(--master-addr "$MASTER_ADDR")
[[ -z ${PORT:-} ]] || options+=(--port "$PORT")
python=${PYTHON:-${VIRTUAL_ENV:-.venv}/bin/python}
command -v "$python" >/dev/null || {
  [[ -z ${PYTHON:-} ]] || {
    echo "error: PYTHON must name an interpreter, got $PYTHON" >&2
    exit 2
  }
  python=python3
}
exec "$python" -m anybev.engine.job "${options[@]}" -- "${@:3}"
