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
# The CUDA kernels: compiled where nvcc is, and run thread by thread on the processor.
if command -v nvcc >/dev/null; then
  ANYBEV_BUILD_CUDA=1 ANYBEV_CUDA_ARCHS=${ANYBEV_CUDA_ARCHS:-90} MAX_JOBS=${MAX_JOBS:-$(nproc)} \
    python setup.py -q build_ext --inplace
else
  echo "no nvcc: the CUDA kernels are not compiled here"
fi
library=$(python -m anybev.testing.cuda_emulation)
# Shuffled: in ascending order a plain write does what an atomic maximum must.
ANYBEV_EMULATION_SEED=1 ANYBEV_NATIVE_LIBRARY=$library python -m pytest -m "$marks" test/device/ops
status=0
python -m pytest -m "$marks" --durations=15 || status=$?
# The simulated npu cannot be undone, so its tests have a process of their own.
if command -v "${CXX:-c++}" >/dev/null; then
  ANYBEV_SIMULATE=npu python -m pytest -m "$marks" --durations=5 test/npu || status=$?
else
  echo "no C++ compiler: the tests on the simulated npu are left out"
fi
exit "$status"
