#!/usr/bin/env bash
# libposelift_ops in plain Python onnxruntime of several versions, and the Python and C examples with it. Part of `make test-all`.
# Usage: ops.sh [VERSION ...]   versions of onnxruntime; "installed" is the one of .native/venv, which run.sh makes.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$PWD/.native/venv/bin/python
[ -x "$python" ] || { echo "ops.sh: run tests/python/run.sh first, which makes .native/venv" >&2; exit 1; }
# Alone, whatever else was built: with others it would ask for their, newer, ONNX Runtime.
cargo build -q -p poselift-ops
library=$PWD/target/debug/libposelift_ops.so

# A wheel apart from the environment: onnxruntime==VERSION, with its hash.
declare -A hashes=(
  [1.19.2]=a36511dc07c5c964b916697e42e366fa43c48cdb3d3503578d78cef30417cb84
  [1.23.2]=da44b99206e77734c5819aa2142c69e64f3b46edc3bd314f6a45a932defc0b3e
)
[ $# -gt 0 ] || set -- 1.19.2 1.23.2 installed
for version in "$@"; do
  path=
  if [ "$version" != installed ]; then
    path=$PWD/.native/onnxruntime-python/$version
    if [ ! -f "$path/.complete" ]; then
      rm -rf "$path"
      echo "onnxruntime==$version --hash=sha256:${hashes[$version]}" | "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 --target "$path" -r /dev/stdin
      touch "$path/.complete"
    fi
  fi
  PYTHONPATH=$path "$python" tests/python/check_ops.py "$library" models/clip-xs.onnx
done

# The examples on a clip of our own.
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$python" - "$work/clip.json" <<'P'
import json, math, sys
standing = [(0, 0), (-12, 0), (-13, 45), (-14, 88), (12, 0), (13, 45), (14, 88), (0, -25), (0, -50), (0, -60), (0, -72), (16, -48), (24, -20), (28, 5), (-16, -48), (-24, -20), (-28, 5)]
frames = [[[960 + 4 * x + 20 * math.sin(t / 9), 540 + 4 * y, 1.0] for x, y in standing] for t in range(40)]
json.dump({"format": "poselift-keypoints/1", "skeleton": "h36m17", "image": {"width": 1920, "height": 1080}, "fps": 30, "frames": frames}, open(sys.argv[1], "w"))
P
"$python" examples/python/run_model.py models/clip-xs.onnx "$work/clip.json" --out "$work/poses.npy" --ops "$library"
"$python" -c 'import numpy, sys; p = numpy.load(sys.argv[1]); assert p.shape == (40, 17, 3) and numpy.isfinite(p).all(), p.shape' "$work/poses.npy"
if "$python" -c 'import torch, onnx' 2>/dev/null; then
  "$python" -W ignore examples/python/export_mamba.py "$work/mamba.onnx" --ops "$library"
else
  echo "skipped: examples/python/export_mamba.py (the environment has no torch)"
fi
if [ -n "${ONNXRUNTIME_INCLUDE:-}" ]; then
  # The wheel has the library under one name; programs look for another.
  for name in libonnxruntime.so libonnxruntime.so.1; do ln -s "$PWD"/.native/onnxruntime/lib/libonnxruntime.so.1.* "$work/$name"; done
  cc -std=c11 -O1 -Wall -Wextra -Werror -I"$ONNXRUNTIME_INCLUDE" examples/c/run_model.c -o "$work/run_model" -L"$work" -lonnxruntime -lm
  LD_LIBRARY_PATH=$work "$work/run_model" models/clip-xs.onnx "$library" 27 3 | tee "$work/c.txt" | head -n 3
  [ "$(wc -l <"$work/c.txt")" = 18 ] || { echo "ops.sh: the C example did not print 17 joints" >&2; exit 1; }
else
  echo "skipped: the C example (ONNXRUNTIME_INCLUDE names no folder with onnxruntime_c_api.h)"
fi
