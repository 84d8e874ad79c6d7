#!/usr/bin/env bash
# The test command behind `bash install.sh --test`: style, layers, types, then the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ruff check .
ruff format --check .
lint-imports
mypy
clang-format --dry-run --Werror csrc/ops/*/*.cpp $(find csrc -name '*.h')
marks="not slow"
[[ ${ANYBEV_TEST_SLOW:-0} == 1 ]] && marks=""
exec python -m pytest -m "$marks" --durations=15
