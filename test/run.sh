#!/usr/bin/env bash
# The test command behind `bash install.sh --test`: style, layers, types, then the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ruff check .
ruff format --check .
lint-imports
mypy
find csrc \( -name "*.cpp" -o -name "*.h" \) -exec clang-format --dry-run --Werror {} +
marks="not slow"
[[ ${ANYBEV_TEST_SLOW:-0} == 1 ]] && marks=""
exec python -m pytest -m "$marks" --durations=15
