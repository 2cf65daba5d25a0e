#!/usr/bin/env bash
# The trainer on CUDA: a real training run of clip-xs, its figures on the test set, and the same evaluation on the CPU, which must agree.
# Usage: train.sh CARRY OUT [MINUTES]   CARRY has trainer, configs/ and mocap/ (see README.md); OUT gets best.pth and the figures.
set -euo pipefail
source "$(dirname "$0")/common.sh"
carry=$(realpath "${1:?folder with trainer, configs/ and mocap/}"); out=${2:?folder for the results}; minutes=${3:-8}
need "$carry/trainer" "$carry/configs/clip-xs.toml" "$carry/mocap"
need_gpu
need_torch
find_nvrtc "$carry"
export OMP_WAIT_POLICY=passive
mkdir -p "$out"
trainer() { "$carry/trainer" "$@"; }

trainer train --config "$carry/configs/clip-xs.toml" --data "$carry/mocap" --out "$out/run" --device cuda --max-minutes "$minutes" \
  --set train.batch_size=128 --set data.stride=9 --epochs 1000
cp "$out/run/best.pth" "$out/run/training.log" "$out/run/metrics.jsonl" "$out/"
trainer eval "$out/best.pth" --data "$carry/mocap" --device cuda --json >"$out/cuda.json"
trainer eval "$out/best.pth" --data "$carry/mocap" --device cpu --json >"$out/cpu.json"
python3 - "$out/cuda.json" "$out/cpu.json" <<'P' || fail "the evaluation on CUDA is not that on the CPU"
import json, sys
def numbers(value):
    if isinstance(value, dict):
        for key in value: yield from numbers(value[key])
    elif isinstance(value, list):
        for item in value: yield from numbers(item)
    elif isinstance(value, float): yield value
cuda, cpu = (list(numbers(json.load(open(path)))) for path in sys.argv[1:])
worst = max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(cuda, cpu, strict=True))
print(f"CUDA against CPU: {len(cpu)} figures, largest relative difference {worst:.2e}")
sys.exit(worst > 0.01)
P
echo "PASS: trained on CUDA, and evaluated there as on the CPU"
