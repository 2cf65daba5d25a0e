#!/usr/bin/env bash
# The scan through libtorch's autograd on CUDA: outputs and gradients in f32, bf16 and f16 against f64 on the CPU, and its times.
# Usage: torch_scan.sh CARRY [OUT]   CARRY has gpu_autograd (see README.md); OUT gets the figures.
set -euo pipefail
carry=$(realpath "${1:?folder with gpu_autograd}"); out=${2:-.}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
torch=$(python3 -c 'import os, torch; assert torch.__version__.startswith("2.11.0"), torch.__version__; print(os.path.dirname(torch.__file__))')
export LD_LIBRARY_PATH="$torch/lib:$torch/../nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" LIBTORCH_CUDA_DIR="$torch/lib"
POSELIFT_CACHE=$(mktemp -d) "$carry/gpu_autograd" | tee "$out/torch_scan.txt"
