#!/usr/bin/env bash
# The test command behind `bash install.sh --test`: style, layers, types, then the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ruff check .
ruff format --check .
lint-imports
mypy
find csrc src/anybev/testing/simnpu \( -name "*.cpp" -o -name "*.h" -o -name "*.cu" -o -name "*.cuh" \) -exec clang-format --dry-run --Werror {} +
shellcheck -x -P SCRIPTDIR install.sh requirements/*.sh test/*.sh test/common/*.sh tools/*.sh
shfmt -d -i 2 -ci test/*.sh test/common/*.sh tools/*.sh
marks="not slow"
[[ ${ANYBEV_TEST_SLOW:-0} == 1 ]] && marks=""
# The CUDA kernels are compiled where nvcc is; no GPU is needed for that.
if command -v nvcc >/dev/null; then
  ANYBEV_BUILD_CUDA=1 ANYBEV_CUDA_ARCHS=${ANYBEV_CUDA_ARCHS:-90} MAX_JOBS=${MAX_JOBS:-$(nproc)} \
    python setup.py -q build_ext --inplace
else
  echo "no nvcc: the CUDA kernels are not compiled here"
fi
status=0
python -m pytest -m "$marks" --durations=15 || status=$?
# What is loaded in place of the machine's own kernels or cannot be undone has a process of its own.
if command -v "${CXX:-c++}" >/dev/null; then
  library=$(python -m anybev.testing.cuda_emulation)
  # Shuffled: in ascending order a plain write does what an atomic maximum must.
  ANYBEV_EMULATION_SEED=1 ANYBEV_NATIVE_LIBRARY=$library \
    python -m pytest -m "$marks" --durations=5 test/device/ops || status=$?
  ANYBEV_SIMULATE=npu python -m pytest -m "$marks" --durations=5 test/npu || status=$?
else
  echo "no C++ compiler: the emulated CUDA kernels and the simulated npu are left out"
fi
exit "$status"
