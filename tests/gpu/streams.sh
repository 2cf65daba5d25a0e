#!/usr/bin/env bash
# Live streams on ONNX Runtime's CUDA provider: how many at 30 frames a second with p99 under a frame (33 ms). Goal: 2,000 of live-xs.
# Usage: streams.sh CARRY OUT   CARRY has runtime, ort/ (libonnxruntime.so of onnxruntime-gpu with its providers) and live-{xs,s}.step.onnx.
set -euo pipefail
carry=$(realpath "${1:?folder with runtime, ort/ and the step graphs}"); out=${2:?folder for the results}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
torch=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')
export LD_LIBRARY_PATH="$carry/ort:$torch/lib:$torch/../nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
held=0
for model in live-xs live-s; do
  for streams in 250 500 1000 2000 4000; do
    "$carry/runtime" bench "$carry/$model.step.onnx" --device cuda --onnxruntime "$carry/ort" --streams "$streams" --seconds 10 --warm-up 3 --json |
      tee "$out/$model-$streams.json"
    if python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); sys.exit(r["p99_ms"] > 33.3 or r["dropped"] > 0)' "$out/$model-$streams.json"; then
      [ "$model" = live-xs ] && held=$streams
    else
      break
    fi
  done
done
echo "live-xs holds $held streams (goal: 2000)"
[ "$held" -ge 2000 ]
