#!/usr/bin/env bash
# Live streams on ONNX Runtime's CUDA provider: how many at 30 frames a second with p99 under a frame (33 ms). Goal: 2,000 of live-xs.
# Each with states that stay on the GPU (what --device cuda does), and as CUDA graphs; and 250 of them with states that travel.
# Usage: streams.sh CARRY OUT   CARRY has runtime, ort/ (libonnxruntime.so of onnxruntime-gpu with its providers) and live-{xs,s}.step.onnx.
set -euo pipefail
source "$(dirname "$0")/common.sh"
carry=$(realpath "${1:?folder with runtime, ort/ and the step graphs}"); out=${2:?folder for the results}
need "$carry/runtime" "$carry/ort/libonnxruntime_providers_cuda.so" "$carry/live-xs.step.onnx" "$carry/live-s.step.onnx"
need_gpu
need_torch
find_nvrtc "$carry"
export LD_LIBRARY_PATH="$carry/ort:$LD_LIBRARY_PATH"
mkdir -p "$out"
bench() { # MODEL STREAMS WAY [OPTION...]
  "$carry/runtime" bench "$carry/$1.step.onnx" --device cuda --onnxruntime "$carry/ort" --streams "$2" --seconds 10 --warm-up 3 --json "${@:4}" |
    tee "$out/$1-$2-$3.json"
}
held=0
for model in live-xs live-s; do
  for way in bound captured; do
    options=()
    if [ "$way" = captured ]; then options=(--cuda-graph); fi
    for streams in 250 500 1000 2000 4000; do
      bench "$model" "$streams" "$way" "${options[@]}"
      python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); sys.exit(r["p99_ms"] > 33.3 or r["dropped"] > 0)' \
        "$out/$model-$streams-$way.json" || break
      if [ "$model" = live-xs ] && [ "$streams" -gt "$held" ]; then held=$streams; fi
    done
  done
  bench "$model" 250 travelling --binding off
done
[ "$held" -ge 2000 ] || fail "live-xs holds $held streams; the goal is 2000"
echo "PASS: live-xs holds $held streams (goal: 2000)"
