#!/usr/bin/env bash
# The operator in ONNX Runtime on CUDA: a whole model there against the same on the CPU, in f32 and f16, and clips a second beside PyTorch.
# Usage: ort_scan.sh CARRY [OUT]   CARRY has runtime, ort/ (onnxruntime-gpu's libraries), nvrtc/ and MODEL.onnx files (see README.md).
set -euo pipefail
source "$(dirname "$0")/common.sh"
carry=$(realpath "${1:?folder with runtime, ort/, nvrtc/ and models}"); out=${2:-.}
need "$carry/runtime" "$carry/ort/libonnxruntime_providers_cuda.so"
compgen -G "$carry/*.onnx" >/dev/null || fail "$carry has no model; tests/gpu/README.md says how to make one"
need_gpu
need_torch
find_nvrtc "$carry"
export LD_LIBRARY_PATH="$carry/ort:$LD_LIBRARY_PATH"
mkdir -p "$out"
runtime() { "$carry/runtime" "$@" --onnxruntime "$carry/ort"; }
runtime doctor --device cuda
failed=0
for model in "$carry"/*.onnx; do
  case $model in *.step.onnx) continue ;; esac
  name=$(basename "$model" .onnx)
  # Windows of noise, as many frames as the model says.
  runtime info "$model" --json >"$out/$name.info.json"
  python3 - "$out/$name.info.json" "$out/x.npy" <<'P'
import json, sys, numpy as np
info = json.load(open(sys.argv[1]))
shape = [n or d for n, d in zip(info["inputs"][0]["shape"], (64, 27, 17, 3))]
np.save(sys.argv[2], (np.random.default_rng(0).standard_normal([64, *shape[1:]]) * 0.3).astype(np.float32))
P
  runtime run "$model" --input "$out/x.npy" --output "$out/cuda.npy" --device cuda
  runtime run "$model" --input "$out/x.npy" --output "$out/cpu.npy" --device cpu
  python3 - "$name" "$out/cuda.npy" "$out/cpu.npy" <<'P' || failed=1
import sys, numpy as np
name, cuda, cpu = sys.argv[1], *(np.load(path) for path in sys.argv[2:])
near = np.mean(np.abs(cuda - cpu) < (2e-2 if "f16" in name else 1e-3))
print(f"{name}: {100 * near:.2f} % of the outputs near those of the CPU, largest difference {np.abs(cuda - cpu).max():.1e} (top-k graphs flip at near ties)")
sys.exit(near < 0.99)
P
  for batch in 1 64 512; do runtime bench "$model" --device cuda --batch "$batch" --json | tee "$out/$name-$batch.json"; done
done
[ "$failed" = 0 ] || fail "a model's outputs on CUDA are not those of the CPU"
echo "PASS: every model gives on CUDA what it gives on the CPU"
