#!/usr/bin/env bash
# Body of the launchers beside this folder: their values and the user's flags become one command.
# --help lists the flags. PYTHON names the interpreter; else the active environment's, else .venv's.
set -euo pipefail
case_name=$(basename "$0" .sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-${VIRTUAL_ENV:-.venv}/bin/python}
command -v "$python" >/dev/null || {
  [[ -z ${PYTHON:-} ]] || {
    echo "error: PYTHON must name an interpreter, got $PYTHON" >&2
    exit 2
  }
  python=python3
}

backend=${ANYBEV_BACKEND:-auto}
if [[ $backend == auto ]]; then
  if command -v npu-smi >/dev/null || [[ -e /dev/davinci0 ]]; then
    backend=npu
  elif [[ -e /dev/nvidiactl ]]; then
    backend=cuda
  fi
fi
case $backend in
  npu) source test/env_npu.sh ;;
  cuda) source test/env_cuda.sh ;;
esac

# In the foreground and in place of this shell: its exit status is the training's.
exec "$python" -m anybev.engine.job --case "$case_name" --kind "${KIND:?}" --precision "${PRECISION:?}" \
  --network "${NETWORK:?}" --config "${CONFIG:?}" "$@"
