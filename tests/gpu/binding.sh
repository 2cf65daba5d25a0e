#!/usr/bin/env bash
# Bound memory, states that stay on the GPU, and CUDA graphs, on ONNX Runtime's CUDA provider: every road says the same, and what each takes.
# Usage: binding.sh CARRY [OUT]   CARRY has runtime, gpu_binding, ort/, nvrtc/, live-{xs,s}.step.onnx and clip-xs.onnx (see README.md).
set -euo pipefail
source "$(dirname "$0")/common.sh"
carry=$(realpath "${1:?folder with runtime, gpu_binding, ort/, nvrtc/ and models}"); out=${2:-.}
need "$carry/runtime" "$carry/gpu_binding" "$carry/ort/libonnxruntime_providers_cuda.so" "$carry/clip-xs.onnx" "$carry"/live-{xs,s}.step.onnx
need_gpu
need_torch
find_nvrtc "$carry"
export LD_LIBRARY_PATH="$carry/ort:$LD_LIBRARY_PATH"
mkdir -p "$out"
failed=
for step in live-xs live-s; do
  "$carry/gpu_binding" cuda "$carry/$step.step.onnx" "$carry/clip-xs.onnx" "$carry/ort" | tee "$out/binding-$step.txt" || failed+=" gpu_binding of $step;"
done
# A thousand streams each way, and what of the GPU's memory they take: half a megabyte each in the slab, and twice in the buffers of a call.
for way in "--binding off" "--binding on" "--binding on --cuda-graph"; do
  # shellcheck disable=SC2086
  "$carry/runtime" bench "$carry/live-xs.step.onnx" --device cuda --onnxruntime "$carry/ort" $way --batch 1000 --seconds 8 --json >"$out/bench${way// /}.json" &
  bench=$!
  sleep 7
  nvidia-smi --query-gpu=memory.used --format=csv,noheader | sed "s/^/$way: memory of the GPU in use: /"
  wait "$bench" || failed+=" bench $way;"
  cat "$out/bench${way// /}.json"
done
# Where there can be no graph, asking for one is refused in words.
for way in "--device cpu" "--device cuda --binding off" "--device cuda --no-custom-op"; do
  # shellcheck disable=SC2086
  if "$carry/runtime" bench "$carry/live-xs.step.onnx" --onnxruntime "$carry/ort" $way --cuda-graph --seconds 1; then
    failed+=" a CUDA graph was not refused with $way;"
  fi
done
[ -z "$failed" ] || fail "$failed"
echo "PASS: bound as unbound, captured as uncaptured, states that stay as states that travel"
