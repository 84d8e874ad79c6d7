#!/usr/bin/env bash
# What a training on Ascend NPUs sets, for both precisions; a value that is set already stays.

# Operators slower than declared are an error: a fallback would be measured as if it were normal.
export ANYBEV_REQUIRE_NATIVE=${ANYBEV_REQUIRE_NATIVE:-1}
# The device's own variables, each with its reason: device/npu/settings.py prints them.
npu_settings=$("${python:-python3}" "$(dirname "${BASH_SOURCE[0]}")/../device/npu/settings.py" --shell)
eval "$npu_settings"
