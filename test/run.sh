#!/usr/bin/env bash
# The test command behind `bash install.sh --test`: style, layers, types, then the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
marks="not slow"
[[ ${ANYBEV_TEST_SLOW:-0} == 1 ]] && marks=""
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The CUDA kernels for a GPU (nvcc needs none) and for the processor, and the simulated npu.
compile() {
  export MAX_JOBS=${MAX_JOBS:-$(nproc)}
  if command -v nvcc >/dev/null; then
    ANYBEV_BUILD_CUDA=only ANYBEV_CUDA_ARCHS=${ANYBEV_CUDA_ARCHS:-90} \
      python setup.py -q build_ext --inplace
  fi
  python -m anybev.testing.cuda_emulation >"$work/emulation"
  if ((headers)); then python -m anybev.testing.simnpu; fi
}

command -v nvcc >/dev/null || echo "no nvcc: the CUDA kernels are not compiled here"
compiler=0 headers=0
if command -v "${CXX:-c++}" >/dev/null; then
  compiler=1
  python -c 'import os, sys, sysconfig as s
sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' && headers=1
  ((headers)) || echo "no Python headers (python3-dev): the simulated npu is left out"
else
  echo "no C++ compiler: the emulated CUDA kernels and the simulated npu are left out"
fi
if ((compiler)); then
  compile >"$work/compile.log" 2>&1 &
  compiling=$!
fi
ruff check .
ruff format --check .
lint-imports
mypy
find csrc src/anybev/testing/simnpu \( -name "*.cpp" -o -name "*.h" -o -name "*.cu" -o -name "*.cuh" \) -exec clang-format --dry-run --Werror {} +
shellcheck -x -P SCRIPTDIR install.sh requirements/*.sh test/*.sh test/common/*.sh tools/*.sh
shfmt -d -i 2 -ci test/*.sh test/common/*.sh tools/*.sh
if ((compiler)) && ! wait "$compiling"; then
  cat "$work/compile.log"
  exit 1
fi

# What takes the place of the machine's own kernels, or cannot be undone, has a process of its own;
# these two wait for little and run side by side.
status=0
if ((headers)); then
  OMP_NUM_THREADS=1 ANYBEV_SIMULATE=npu \
    python -m pytest -m "$marks" --durations=5 test/npu >"$work/npu.log" 2>&1 &
  simulating=$!
fi
if ((compiler)); then
  # Shuffled: in ascending order a plain write does what an atomic maximum must.
  OMP_NUM_THREADS=1 ANYBEV_EMULATION_SEED=1 ANYBEV_NATIVE_LIBRARY=$(<"$work/emulation") \
    python -m pytest -m "$marks" --durations=5 test/device/ops || status=$?
fi
if ((headers)); then
  wait "$simulating" || status=$?
  cat "$work/npu.log"
fi
python -m pytest -m "$marks" --durations=15 || status=$?
exit "$status"
