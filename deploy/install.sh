#!/bin/sh
# Install what a lock file names: install.sh LOCK PIP…, where PIP… is how pip is called.
# Without TORCH_INDEX PyTorch is PyPI's, which brings CUDA, and every package is held against its hash. With it, PyTorch
# alone comes from that index instead, for a CPU without CUDA, and PyTorch alone is unchecked: its hash is another one.
set -eu
lock=$1
shift
if [ -z "${TORCH_INDEX:-}" ]; then
    exec "$@" --require-hashes --requirement "$lock"
fi
rest=$(mktemp)
trap 'rm -f "$rest"' EXIT
sed '/^\(torch\|torchvision\|triton\|nvidia-[^=]*\|cuda-[^=]*\)==/,/[^\\]$/d' "$lock" > "$rest"
"$@" --require-hashes --no-deps --requirement "$rest"
grep --only-matching '^torch\(vision\)\?==[0-9.]*' "$lock" | xargs --no-run-if-empty "$@" --no-deps --index-url "$TORCH_INDEX"
