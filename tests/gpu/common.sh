# What the scripts beside this share; sourced by them.

fail() { trap - ERR; echo "FAIL: $*" >&2; exit 1; }
# Whatever goes wrong unforeseen says where.
set -E
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

# What is not there is said before anything runs.
need() { # FILE...
  local file
  for file in "$@"; do [ -e "$file" ] || fail "$file is missing; tests/gpu/README.md says how to make it"; done
}

# A GPU, and which.
need_gpu() {
  command -v nvidia-smi >/dev/null || fail "there is no NVIDIA GPU here (no nvidia-smi); run this on a machine with one and driver 580 or newer"
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || fail "nvidia-smi finds no GPU"
}

# PyTorch's folder, as $torch; its libraries and NVIDIA's where the loader looks.
need_torch() {
  torch=$(python3 -c 'import os, torch; assert torch.__version__.startswith("2.11.0"), torch.__version__; print(os.path.dirname(torch.__file__))') ||
    fail "python3 has no PyTorch 2.11.0"
  export LD_LIBRARY_PATH="$torch/lib:$torch/../nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" LIBTORCH_CUDA_DIR="$torch/lib"
}

# NVRTC of the folder that was carried, else of NVIDIA's Python packages, else the loader's.
find_nvrtc() { # CARRY
  local file packages
  packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null) || packages=
  for file in "$1/nvrtc/libnvrtc.so.13" "$packages/nvidia/cu13/lib/libnvrtc.so.13" /usr/local/cuda/lib64/libnvrtc.so.13; do
    if [ -f "$file" ]; then
      export POSELIFT_NVRTC=$file
      break
    fi
  done
  echo "NVRTC: ${POSELIFT_NVRTC:-wherever the loader finds it}"
}
