#!/usr/bin/env bash
# The scan's CUDA kernels on a real device: against the f64 oracle, twice with the same bits, and against the memory roofline.
# Usage: scan.sh CARRY [OUT]   CARRY has gpu_scan, and may have nvrtc/ (see README.md); OUT gets the figures.
set -euo pipefail
source "$(dirname "$0")/common.sh"
carry=$(realpath "${1:?folder with gpu_scan}"); out=${2:-.}
need "$carry/gpu_scan"
need_gpu
find_nvrtc "$carry"
mkdir -p "$out"
POSELIFT_CACHE=$(mktemp -d) "$carry/gpu_scan" ${GPU_SCAN_ARGUMENTS:-} | tee "$out/scan.txt" || exit 1 # it says why
