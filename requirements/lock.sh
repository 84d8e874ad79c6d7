#!/usr/bin/env bash
# Rewrite the locks from the .in files: every package but torch, with hashes. Needs pip-tools.
set -euo pipefail
cd "$(dirname "$0")"
compile() {
  CUSTOM_COMPILE_COMMAND="requirements/lock.sh" pip-compile --quiet --strip-extras --generate-hashes \
    --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-annotate "$@"
}
# Packages whose own requirements contradict base.in: their files are hashed, nothing is resolved.
hash_alone() {
  local folder pin
  while read -r pin; do
    folder=$(mktemp -d)
    pip download --quiet --no-deps --dest "$folder" "$pin"
    echo "$pin $(pip hash "$folder"/* | grep '^--hash')"
    rm -r "$folder"
  done < <(sed -n 's/^\([a-z][^ #]*==[^ ]*\).*/\1/p' "$1")
}
compile --output-file cpu.txt base.in
for backend in cuda npu; do cp cpu.txt "$backend.txt"; done  # the same wheels; torch differs
compile --output-file test.txt test.in
compile --output-file host.txt host.in
hash_alone host-no-deps.in >>host.txt
hash_alone judge.in >judge.txt
