#!/usr/bin/env bash
# What other people's software says of our files: ONNX models in plain Python, motion files in theirs. Part of `make test-all`.
# Needs the workspace built (`make test`); makes a Python environment in .native/venv once.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.native/venv/bin/python
if [ ! -f .native/venv/.complete ]; then
  echo "making a Python environment in .native/venv"
  python3 -m venv .native/venv
  .native/venv/bin/pip install -q --disable-pip-version-check onnx onnxruntime numpy pandas bvhtoolbox ezc3d c3d pygltflib trimesh
  touch .native/venv/.complete
fi
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

pairs=()
models() { # folder of the reference models, Mamba form of those that say nothing
  for folder in "$1"/*/; do
    case $(basename "$folder") in option_*) continue ;; esac
    checkpoint=$(find "$folder" -maxdepth 1 -name 'best*.pth*' | head -n 1)
    form=(); case $(basename "$folder") in *fixed*|*selective*) form=(--mamba selective) ;; esac
    target/debug/export onnx "$checkpoint" "${form[@]}" --out "$work/$(basename "$folder").onnx" >/dev/null
    pairs+=("$work/$(basename "$folder").onnx" "$folder")
  done
}
models tests/golden/tiny
if [ -d ../shared/reference/full ]; then models ../shared/reference/full; else echo "skipped: the full-size models (../shared is absent)"; fi
$python tests/python/check_onnx.py "${pairs[@]}"

if [ -f ../shared/data/mocap/tiny_test.npz ]; then
  cargo run -q -p formats --example write_motion -- ../shared/data/mocap/tiny_test.npz "$work/motion"
  $python tests/python/check_motion.py "$work/motion"
else
  echo "skipped: the motion files (../shared is absent)"
fi

tests/python/ops.sh
