#!/usr/bin/env bash
# Native libraries out of pinned, hashed wheels into .native/ (ignored by git). Nothing is built, nothing goes elsewhere.
#   scripts/native.sh onnxruntime   ONNX Runtime 1.31.1 for the CPU (24 MB): runtime, export, demo
#   scripts/native.sh libtorch      libtorch 2.11.0 for the CPU (544 MB of download, 500 MB on disk): trainer
#   scripts/native.sh nvrtc         NVRTC 13.0.88 (90 MB of download): compiles the scan's CUDA kernels, with or without a GPU
# POSELIFT_TORCH=/path/to/site-packages/torch takes a full PyTorch 2.11 (with CUDA 13) instead of downloading libtorch.
# A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
native=$PWD/.native
mkdir -p "$native"

die() { echo "native.sh: $*" >&2; exit 1; }

# download DEST REQUIREMENTS: wheels, hashes checked by pip.
download() {
  python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed to fetch packages: install python3-pip"
  local log=$1.log
  if ! python3 -m pip download -q --no-deps --disable-pip-version-check --retries 2 --require-hashes --only-binary=:all: --implementation cp --python-version 3.11 \
      --abi cp311 --abi none --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 \
      --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_12_x86_64 -d "$1" -r "$2" >"$log" 2>&1; then
    die "the packages could not be downloaded (is the Python package index reachable? is there space in $native?): $(grep -m1 '^ERROR' "$log" || tail -n 1 "$log"); run it again, nothing is half installed"
  fi
}

# unpack WHEEL_GLOB DEST 'member-prefix=folder' ...: copies members of a wheel.
unpack() {
  python3 - "$@" <<'P'
import glob, os, shutil, sys, zipfile
pattern, dest, *rules = sys.argv[1:]
[wheel] = glob.glob(pattern)
with zipfile.ZipFile(wheel) as z:
    for name in z.namelist():
        for rule in rules:
            prefix, folder = rule.split("=")
            if name.startswith(prefix) and not name.endswith("/"):
                rest = name[len(prefix):] if prefix.endswith("/") else os.path.basename(name)
                target = os.path.join(dest, folder, rest)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with z.open(name) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
P
}

onnxruntime() {
  [ -f "$native/onnxruntime/.complete-1.31.1" ] && return
  echo "fetching ONNX Runtime 1.31.1 (24 MB)"
  tmp=$(mktemp -d "$native/onnxruntime.XXXXXX"); trap 'rm -rf "$tmp"' EXIT
  echo 'onnxruntime==1.31.1 --hash=sha256:5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f' >"$tmp/requirements.txt"
  download "$tmp/wheels" "$tmp/requirements.txt"
  unpack "$tmp/wheels/onnxruntime-*.whl" "$tmp/out" onnxruntime/capi/libonnxruntime.so=lib onnxruntime/LICENSE=. onnxruntime/ThirdPartyNotices.txt=.
  touch "$tmp/out/.complete-1.31.1"
  rm -rf "$native/onnxruntime"; mv "$tmp/out" "$native/onnxruntime"
  rm -rf "$tmp"; trap - EXIT
}

libtorch() {
  if [ -n "${POSELIFT_TORCH:-}" ]; then
    [ -f "$POSELIFT_TORCH/lib/libtorch_cpu.so" ] || die "POSELIFT_TORCH=$POSELIFT_TORCH has no lib/libtorch_cpu.so: point it at the folder 'torch' of a PyTorch 2.11 install"
    if [ "$(readlink -f "$native/libtorch/lib" || true)" != "$(readlink -f "$POSELIFT_TORCH/lib")" ]; then
      rm -rf "$native/libtorch"; mkdir -p "$native/libtorch"
      ln -s "$(readlink -f "$POSELIFT_TORCH/lib")" "$native/libtorch/lib"
      ln -s "$(readlink -f "$POSELIFT_TORCH/include")" "$native/libtorch/include"
    fi
    return
  fi
  [ -f "$native/libtorch/.complete-2.11.0" ] && return
  echo "fetching libtorch 2.11.0 for the CPU (544 MB)"
  tmp=$(mktemp -d "$native/libtorch.XXXXXX"); trap 'rm -rf "$tmp"' EXIT
  cat >"$tmp/requirements.txt" <<'R'
torch==2.11.0 --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
R
  download "$tmp/wheels" "$tmp/requirements.txt"
  unpack "$tmp/wheels/torch-*.whl" "$tmp/out" torch/lib/libtorch_cpu.so=lib torch/lib/libc10.so=lib torch/lib/libgomp.so.1=lib torch/include/=include torch/bin/ptxas=bin
  chmod +x "$tmp/out/bin/ptxas"
  unpack "$tmp/wheels/nvidia_cuda_cupti-*.whl" "$tmp/out" nvidia/cu13/lib/libcupti.so.13=lib
  unpack "$tmp/wheels/nvidia_cuda_runtime-*.whl" "$tmp/out" nvidia/cu13/lib/libcudart.so.13=lib
  # -ltorch, which torch-sys asks for, without the real libtorch.so, which would pull in libtorch_cuda.so
  echo 'INPUT(-ltorch_cpu)' >"$tmp/out/lib/libtorch.so"
  touch "$tmp/out/.complete-2.11.0"
  rm -rf "$native/libtorch"; mv "$tmp/out" "$native/libtorch"
  rm -rf "$tmp"; trap - EXIT
}

# 13.0 and not newer: what a newer one makes, the driver of CUDA 13.0 refuses.
nvrtc() {
  [ -f "$native/nvrtc/.complete-13.0.88" ] && return
  echo "fetching NVRTC 13.0.88 (90 MB)"
  tmp=$(mktemp -d "$native/nvrtc.XXXXXX"); trap 'rm -rf "$tmp"' EXIT
  echo 'nvidia-cuda-nvrtc==13.0.88 --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575' >"$tmp/requirements.txt"
  download "$tmp/wheels" "$tmp/requirements.txt"
  unpack "$tmp/wheels/nvidia_cuda_nvrtc-*.whl" "$tmp/out" nvidia/cu13/lib/libnvrtc.so.13=lib nvidia/cu13/lib/libnvrtc-builtins.so.13.0=lib
  touch "$tmp/out/.complete-13.0.88"
  rm -rf "$native/nvrtc"; mv "$tmp/out" "$native/nvrtc"
  rm -rf "$tmp"; trap - EXIT
}

[ $# -gt 0 ] || die "say which: onnxruntime, libtorch, nvrtc"
for library in "$@"; do
  case $library in
    onnxruntime|libtorch|nvrtc) $library ;;
    *) die "no such library: $library (onnxruntime, libtorch, nvrtc)" ;;
  esac
done
