#!/usr/bin/env bash
# The scan's CUDA kernels on a real device: against the f64 oracle, twice with the same bits, and against the memory roofline.
# Usage: scan.sh CARRY [OUT]   CARRY has gpu_scan and libnvrtc (see README.md); OUT gets the figures.
set -euo pipefail
carry=$(realpath "${1:?folder with gpu_scan and nvrtc/}"); out=${2:-.}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
if [ -f "$carry/nvrtc/libnvrtc.so.13" ]; then export POSELIFT_NVRTC="$carry/nvrtc/libnvrtc.so.13"; fi # else PyTorch's, or the system's
POSELIFT_CACHE=$(mktemp -d) "$carry/gpu_scan" | tee "$out/scan.txt"
