#!/usr/bin/env bash
# Rewrite the locks from the .in files: every package but torch, with hashes. Needs pip-tools.
set -euo pipefail
cd "$(dirname "$0")"
compile() {
  CUSTOM_COMPILE_COMMAND="requirements/lock.sh" pip-compile --quiet --strip-extras --generate-hashes \
    --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-annotate "$@"
}
compile --output-file cpu.txt base.in
for backend in cuda npu; do cp cpu.txt "$backend.txt"; done  # the same wheels; torch differs
compile --output-file test.txt test.in
# The devkit's own requirements contradict base.in, so its file is hashed alone.
folder=$(mktemp -d)
pip download --quiet --no-deps --dest "$folder" "$(sed -n 's/^\(nuscenes-devkit[^ ]*\).*/\1/p' judge.in)"
echo "$(sed -n 's/^\(nuscenes-devkit[^ ]*\).*/\1/p' judge.in) $(pip hash "$folder"/* | grep '^--hash')" > judge.txt
rm -r "$folder"
