#!/usr/bin/env bash
# The scan through libtorch's autograd on CUDA: outputs and gradients in f32, bf16 and f16 against f64 on the CPU, and its times.
# Usage: torch_scan.sh CARRY [OUT]   CARRY has gpu_autograd (see README.md); OUT gets the figures.
set -euo pipefail
source "$(dirname "$0")/common.sh"
carry=$(realpath "${1:?folder with gpu_autograd}"); out=${2:-.}
need "$carry/gpu_autograd"
need_gpu
need_torch
find_nvrtc "$carry"
mkdir -p "$out"
POSELIFT_CACHE=$(mktemp -d) "$carry/gpu_autograd" | tee "$out/torch_scan.txt" || exit 1 # it says why
