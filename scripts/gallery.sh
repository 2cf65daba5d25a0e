#!/usr/bin/env bash
# Makes docs/gallery.md and its pictures in docs/gallery/ from the demo's own outputs on the sample clip: a picture of the film, the page
# (Chromium and npm's puppeteer-core, as tests/page/run.sh has them), the plot of the angles, and the BVH as Blender sees it where
# BLENDER_PYTHON names a Python that has the package bpy. What cannot be made is said, and left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=${DEMO:-target/release/demo}
[ -x "$demo" ] || { echo "gallery.sh: expected the demo at $demo: make demo, or name it by DEMO=" >&2; exit 1; }
scripts/clip.sh
clip=.native/clips/demo.mp4
out=docs/gallery
mkdir -p "$out"
work=$(mktemp -d)
stop() { [ -z "${pids:-}" ] || kill $pids 2>/dev/null || true; rm -rf "$work"; }
trap stop EXIT
pids=

"$demo" --video "$clip" --person all --format bvh,angles-plot --out "$work" --json >"$work/summary.json"
first=$(find "$work" -name 'demo.person1.3d.json')
ffmpeg -v error -y -ss 3 -i "$work/demo.3d.mp4" -frames:v 1 -vf scale=1200:-2 -q:v 5 "$out/film.jpg"
cp "${first%.json}.angles.svg" "$out/angles.svg"

chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -n "$chromium" ] && [ -d .native/page/npm/node_modules/puppeteer-core ]; then
  cp "$clip" "$work/"
  url() { for _ in $(seq 100); do sed -n 's/.*"page":"\([^"]*\)".*/\1/p' "$1" | grep . && return; sleep 0.2; done; return 1; }
  "$demo" --show "$work"/demo.person*.3d.json --serve 127.0.0.1:0 --json >"$work/show.log" & pids="$!"
  "$demo" --camera "fake-loop:$clip" --person all --detector-quality lite --serve 127.0.0.1:0 --json >"$work/camera.log" 2>/dev/null & pids="$pids $!"
  node tests/page/shots.mjs "$chromium" .native/page/npm "$out" "$(url "$work/show.log")" "$(url "$work/camera.log")"
else
  echo "skipped: pictures of the page (run tests/page/run.sh once; it needs Chromium and npm)"
fi

if [ -n "${BLENDER_PYTHON:-}" ]; then
  "$BLENDER_PYTHON" scripts/gallery_blender.py "${first%.json}.bvh" 90 "$out/blender.jpg" >/dev/null
else
  echo "skipped: the BVH in Blender (BLENDER_PYTHON is not set)"
fi

size=$(du -cb "$out"/* | tail -n 1 | cut -f 1)
[ "$size" -lt 1500000 ] || { echo "gallery.sh: the pictures have $size bytes, more than 1.5 MB" >&2; exit 1; }

# a section for each picture that there is
section() { # file, heading, text
  [ -f "$out/$1" ] || return 0
  printf '\n## %s\n\n%s\n\n![%s](gallery/%s)\n' "$2" "$3" "$2" "$1"
}
{
  printf '# Gallery\n\nAll of it from one clip of one camera, by `scripts/gallery.sh`: `demo --video CLIP --person all`.\n'
  section film.jpg "The film" '`CLIP.3d.mp4`: everyone in the picture, and in one world beside it.'
  section page-dark.jpg "The page" '`demo --video CLIP --person all --serve`, or `demo --show CLIP.person*.3d.json`: [page.md](page.md).'
  section page-light.jpg "From where the camera stood" 'The same by daylight, seen from the camera: people stand where they stand in the picture.'
  section page-phone.jpg "On a phone" 'One column; fingers turn, move and zoom.'
  section page-live.jpg "Live" '`demo --camera 0 --serve`: what it costs from frame to pose, and what was dropped.'
  section angles.svg "Angles" '`--format angles-plot`: flexion of knees, hips, elbows and shoulders.'
  section blender.jpg "In Blender" '`--format bvh`, imported as it is; each bone is drawn as a stick from its head to its tail.'
} >docs/gallery.md
echo "docs/gallery.md, $size bytes of pictures"
