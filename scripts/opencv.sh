#!/usr/bin/env bash
# OpenCV 4 for decoding and encoding video, clang for its bindings, ffmpeg for looking at results: Debian or Ubuntu packages.
set -euo pipefail
if command -v clang >/dev/null && command -v ffprobe >/dev/null && [ -e /usr/include/opencv4/opencv2/videoio.hpp ]; then exit 0; fi
packages=(libopencv-dev clang libclang-dev ffmpeg)
if ! command -v apt-get >/dev/null; then
  echo "opencv.sh: OpenCV 4 (with headers), clang, libclang and ffmpeg are needed: install them with your system's package manager" >&2; exit 1
fi
as_root=(); [ "$(id -u)" = 0 ] || as_root=(sudo)
echo "installing ${packages[*]} (apt)"
log=$(mktemp)
if ! { "${as_root[@]}" apt-get update -q && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
  tail -n 3 "$log" >&2
  echo "opencv.sh: apt could not install ${packages[*]} (is the package server reachable? are you root?); whole log: $log" >&2; exit 1
fi
rm -f "$log"
