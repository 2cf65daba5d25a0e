#!/usr/bin/env bash
# A real clip to try the demo on: .native/clips/demo.mp4 (1768x994, 230 frames, 7.7 s, two people), from the pip package
# sports2d (BSD-3-Clause) at a fixed version and hash. A second run does nothing; a failed run leaves nothing.
set -euo pipefail

requirement="sports2d==0.8.34 --hash=sha256:733b6db70742636ae9c35d870c22bd416582f579abd5881bee93a14bb0e2655d"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dest=$root/.native/clips

fail() { echo "clip.sh: $*" >&2; exit 1; }

if [ -f "$dest/demo.mp4" ]; then exit 0; fi
command -v python3 >/dev/null || fail "python3 with pip is needed to fetch the clip; install them"

mkdir -p "$dest"
work=$(mktemp -d "$dest/XXXXXX.partial")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

echo "fetching the sample clip (9 MB)"
echo "$requirement" >"$work/requirements.txt"
python3 -m pip download --quiet --disable-pip-version-check --retries 1 --no-deps --only-binary=:all: --require-hashes \
  --requirement "$work/requirements.txt" --dest "$work" >"$work/pip.log" 2>&1 ||
  fail "cannot fetch ${requirement%% *} with pip; check the network and try again ($(grep -m1 "^ERROR" "$work/pip.log" || tail -n1 "$work/pip.log"))"
python3 -m zipfile -e "$work"/sports2d-*.whl "$work/wheel"
mv "$work/wheel/Sports2D/Demo/demo.mp4" "$dest/demo.mp4"
echo "the clip is ${dest#"$root"/}/demo.mp4"
