#!/usr/bin/env bash
# What other people's software says of our files: ONNX models in plain Python, motion files in theirs. Part of `make test-all`.
# Needs the workspace built (`make test`); makes a Python environment in .native/venv once.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.native/venv/bin/python
packages="onnx onnxruntime numpy pandas bvhtoolbox ezc3d c3d pygltflib trimesh tensorboard"
if [ "$(cat .native/venv/.complete 2>/dev/null)" != "$packages" ]; then
  echo "making a Python environment in .native/venv"
  [ -x $python ] || python3 -m venv .native/venv
  # shellcheck disable=SC2086 # a list of names
  .native/venv/bin/pip install -q --disable-pip-version-check $packages
  echo "$packages" >.native/venv/.complete
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

if [ -f ../shared/data/mocap/tiny_train.npz ]; then
  mkdir "$work/mocap"
  cp ../shared/data/mocap/tiny_train.npz "$work/mocap/mocap_train.npz"
  cp ../shared/data/mocap/tiny_test.npz "$work/mocap/mocap_val.npz"
  target/debug/trainer train --config models/configs/tiny-test.toml --data "$work/mocap" --out "$work/run" --threads 1 2>/dev/null
  $python tests/python/check_tensorboard.py "$work/run"
else
  echo "skipped: TensorBoard's curves (../shared is absent)"
fi

tests/python/ops.sh

# the server, by other people's clients
$python -c "import tritonclient, websockets" 2>/dev/null || .native/venv/bin/pip install -q --disable-pip-version-check websockets "tritonclient[http,grpc]"
$python tests/python/check_server.py target/debug/runtime models/clip-xs.onnx
