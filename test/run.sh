#!/usr/bin/env bash
# The test command behind `bash install.sh --test`: style, layers, types, then the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ruff check .
ruff format --check .
lint-imports
mypy
find csrc \( -name "*.cpp" -o -name "*.h" \) -exec clang-format --dry-run --Werror {} +
shellcheck -x -P SCRIPTDIR install.sh requirements/*.sh test/*.sh test/common/*.sh tools/*.sh
shfmt -d -i 2 -ci test/*.sh test/common/*.sh tools/*.sh
marks="not slow"
[[ ${ANYBEV_TEST_SLOW:-0} == 1 ]] && marks=""
exec python -m pytest -m "$marks" --durations=15
