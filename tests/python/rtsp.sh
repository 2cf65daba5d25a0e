#!/usr/bin/env bash
# Live sessions over RTSP, through the loopback: a stream is lifted, its delay is measured, it is lost and comes back, and it is lost for good.
#
#   tests/python/rtsp.sh target/debug/demo [CLIP.mp4]
#
# Needs ffmpeg and, of Debian: python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly.
# With a CLIP (with people in it) and BlazePose's models (scripts/blazepose.sh) it is lifted too.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
demo=$(realpath "${1:?usage: rtsp.sh DEMO [CLIP.mp4]}")
clip=${2:+$(realpath "$2")}
python=${PYTHON:-/usr/bin/python3} # the system's: gi is no package of pip's
port=${PORT:-8571}
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT

serve() {
    "$python" "$here/rtsp_server.py" "$port" "$@" >"$work/server.txt" 2>&1 &
    server=$!
    for _ in $(seq 50); do
        grep -q rtsp:// "$work/server.txt" && return
        sleep 0.1
    done
    cat "$work/server.txt" >&2
    exit 1
}

stop() {
    kill $server
    wait $server 2>/dev/null || true
    server=
}

lines() {
    wc -l 2>/dev/null <"$work/lines.ndjson" || echo 0
}

# Waits for so many lines.
await() {
    for _ in $(seq 300); do
        [ "$(lines)" -ge "$1" ] && return
        sleep 0.1
    done
    echo "only $(lines) lines, not $1" >&2
    cat "$work/out.txt" >&2
    exit 1
}

url=rtsp://127.0.0.1:$port/clip
painted="--detector $root/demo/tests/data/detect-live.onnx --model $root/models/live-xs.step.onnx"

echo "== a painted person whose place says what time it is"
serve --clock
timeout --preserve-status -s INT 15 "$demo" --video "$url" $painted --ndjson - 2>"$work/log.txt" | "$python" "$here/rtsp_delay.py"
tail -n 1 "$work/log.txt"

echo "== the server goes away for a moment, then for good"
(timeout 120 "$demo" --video "$url" $painted --ndjson "$work/lines.ndjson" --patience 2 --reconnect 2 >"$work/out.txt" 2>&1 || echo "exit $?" >>"$work/out.txt") &
session=$!
await 40
stop
sleep 0.5
before=$(lines)
serve --clock
await $((before + 40))
after=$(lines)
stop
wait $session
cat "$work/out.txt"
echo "$before lines before, $after after the server came back"
grep -q "is back" "$work/out.txt"
grep -q "was lost and did not come back in 2 attempts" "$work/out.txt"
grep -q "exit 1" "$work/out.txt"

if [ -n "$clip" ]; then
    echo "== a clip"
    ffmpeg -v error -y -stream_loop 3 -i "$clip" -t 20 -an -vf scale=1280:-2 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 30 "$work/long.mp4"
    serve "$work/long.mp4"
    timeout --preserve-status -s INT 12 "$demo" --video "$url" --person all --ndjson "$work/clip.ndjson"
    stop
    "$python" - "$work/clip.ndjson" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
people = {person["id"] for line in lines for person in line["people"]}
assert len(lines) > 20 and people, (len(lines), people)
assert all(a["time_s"] < b["time_s"] for a, b in zip(lines, lines[1:]))
print(f"{len(lines)} lines, people {sorted(people)}")
PYTHON
fi
echo "all is well"
