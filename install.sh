#!/usr/bin/env bash
# Set AnyBEV up on a bare machine; safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
usage: bash install.sh [--backend auto|cpu|cuda|npu] [--venv DIR] [--no-host] [--demo [--seed S]]
                       [--test [--slow]] [--dry-run]

  --backend   which torch to install (auto: npu or cuda where their driver is, else cpu)
  --venv      virtual environment to make or reuse (default: .venv)
  --no-host   without mmdetection3d, whose own models run on AnyBEV's operators (docs/host.md)
  --demo      afterwards: synthetic scenes, a small BEVFusion trained and scored; the last line of
              standard output is one JSON object
  --seed      seed of the demo's scenes and training (default: 0)
  --test      afterwards: the fast test tier; with --slow the long one too
  --dry-run   say what would be done

ANYBEV_TORCH_INDEX names the package index that torch is taken from, when pip's default will not do.
TEXT
}

say() { printf '%s\n' "$*" >&2; }
check() { say "[check] $*"; }
stop() {
  say "error: $*"
  exit 1
}

backend=auto venv=.venv host=1 demo=0 seed=0 run_tests=0 slow=0 dry_run=0
while (($#)); do
  case "$1" in
    --backend | --venv | --seed)
      (($# >= 2)) || stop "$1 needs a value"
      case "$1" in --backend) backend=$2 ;; --venv) venv=$2 ;; --seed) seed=$2 ;; esac
      shift
      ;;
    --backend=*) backend=${1#*=} ;;
    --venv=*) venv=${1#*=} ;;
    --seed=*) seed=${1#*=} ;;
    --no-host) host=0 ;;
    --demo) demo=1 ;;
    --test) run_tests=1 ;;
    --slow) slow=1 ;;
    --dry-run) dry_run=1 ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      stop "unknown argument $1"
      ;;
  esac
  shift
done
[[ $backend =~ ^(auto|cpu|cuda|npu)$ ]] || stop "--backend must be auto, cpu, cuda or npu, got $backend"
[[ $seed =~ ^[0-9]+$ ]] || stop "--seed must be a whole number, got $seed"

run() {
  if ((dry_run)); then say "would run: $*"; else "$@" >&2; fi
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
      command -v "$candidate"
      return
    fi
  done
  stop "Python 3.11 or 3.12 is missing: apt-get install python3.11 python3.11-venv (or set PYTHON)"
}

pick_backend() {
  [[ $backend == auto ]] || return 0
  if command -v npu-smi >/dev/null || [[ -e /dev/davinci0 ]]; then
    backend=npu
  elif [[ -e /dev/nvidiactl ]]; then
    backend=cuda
  else
    backend=cpu
  fi
}

torch_packages() {
  case "$backend" in
    npu) echo "torch==2.7.1 torch-npu==2.7.1 mx-driving==26.2.0.post2" ;;
    *) echo "torch==2.13.0" ;;
  esac
}

pip_install() {
  run "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

make_venv() {
  if [[ -x $venv/bin/python ]]; then
    check "virtual environment $venv: there"
  else
    check "virtual environment $venv: making it"
    "$base_python" -c 'import ensurepip' 2>/dev/null ||
      stop "Python's venv module is missing: apt-get install python3-venv"
    run "$base_python" -m venv "$venv"
  fi
  python=$PWD/$venv/bin/python
  [[ $venv == /* ]] && python=$venv/bin/python
  return 0
}

install_torch() {
  local wanted index=()
  wanted=$(torch_packages)
  if [[ -x $python ]] && "$python" - "$wanted" <<'CODE' 2>/dev/null; then
import sys
from importlib.metadata import version
for pin in sys.argv[1].split():
    name, number = pin.split("==")
    if version(name).split("+")[0] != number:
        sys.exit(1)
CODE
    check "$wanted: there"
    return
  fi
  check "$wanted: installing"
  [[ -z ${ANYBEV_TORCH_INDEX:-} ]] || index=(--index-url "$ANYBEV_TORCH_INDEX")
  # shellcheck disable=SC2086 # two pins on the NPU
  pip_install ${index[@]+"${index[@]}"} $wanted
}

install_packages() {
  local lock stamp
  local locks=("requirements/$backend.txt" requirements/judge.txt)
  ((host)) && locks+=(requirements/host.txt)
  ((run_tests)) && locks+=(requirements/test.txt)
  for lock in "${locks[@]}"; do
    stamp=$venv/.$(basename "$lock").sha256
    if [[ -f $stamp ]] && sha256sum --check --status "$stamp" 2>/dev/null; then
      check "$lock: installed"
      continue
    fi
    check "$lock: installing"
    pip_install --no-deps --require-hashes -r "$lock"
    ((dry_run)) || sha256sum "$lock" >"$stamp"
  done
}

build() {
  local compiler
  compiler=$(command -v "${CXX:-g++}" || command -v c++ || true)
  if [[ -n $compiler ]]; then
    check "C++ compiler: $compiler; building the compiled operators"
  else
    check "C++ compiler: none, so every operator runs on its plain-PyTorch reference, correct but" \
      "slow; for the compiled ones: apt-get install g++, then run install.sh again"
  fi
  if [[ $backend == cuda && -n $compiler ]]; then
    local nvcc
    nvcc=$(command -v "${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" || true)
    if [[ -n $nvcc ]]; then
      check "CUDA compiler: $nvcc; building the CUDA kernels"
      export ANYBEV_BUILD_CUDA=${ANYBEV_BUILD_CUDA:-1}
    else
      check "CUDA compiler: none, so on the GPU every operator runs on its plain-PyTorch reference;" \
        "for the compiled ones: install the CUDA toolkit 12.8 or newer (nvcc on PATH, or CUDA_HOME)" \
        "and run install.sh again"
    fi
  fi
  MAX_JOBS=${MAX_JOBS:-$(nproc)} pip_install --no-build-isolation --no-deps --editable .
}

base_python=$(find_python)
check "Python: $base_python ($("$base_python" -V 2>&1))"
pick_backend
check "backend: $backend"
make_venv
install_torch
install_packages
build
((dry_run)) && exit 0
"$venv/bin/anybev" env >&2
if ((run_tests)); then
  ((slow)) && export ANYBEV_TEST_SLOW=1
  PATH=$(dirname "$python"):$PATH bash test/run.sh
fi
if ((demo)); then
  # torch asks Linux for huge pages: a third less time for large tensors that are touched first.
  export THP_MEM_ALLOC_ENABLE=${THP_MEM_ALLOC_ENABLE:-1}
  exec "$python" -m anybev.demo --seed "$seed"
fi
