"""How long it takes from the moment a picture is painted to the line with its pose, through H.264 and RTSP: reads `demo --ndjson -` of a person
whose place says what time it is (rtsp_server.py --clock)."""

import json
import statistics
import sys
import time

from rtsp_server import FIRST_PX, PERIOD_S, WAY_PX

delays_ms, own_ms = [], []
for line in sys.stdin:
    now = time.time()
    update = json.loads(line)
    if not update["people"] or update["time_s"] < 2:  # the beginning comes late: it waits for the first whole picture
        continue
    hips_px = update["people"][0]["keypoints_px"][0][0]
    share = (1 - (hips_px - FIRST_PX) / WAY_PX) / 2 + 0.5  # on the way back
    candidates = [share * PERIOD_S, (1 - share) * PERIOD_S]  # and on the way there
    delay_s = min((now - at) % PERIOD_S for at in candidates)
    if not 0.1 < share % 0.5 < 0.4:  # near the turning points the place says little
        continue
    delays_ms.append(1000 * delay_s)
    own_ms.append(update["delay_ms"]["total"])
assert len(delays_ms) > 30, f"only {len(delays_ms)} lines with a person"
p95 = lambda values: sorted(values)[int(0.95 * len(values))]
print(f"{len(delays_ms)} poses; from painting to the line: {statistics.median(delays_ms):.0f} ms (95 %: {p95(delays_ms):.0f} ms), "
      f"of which from the frame's arrival: {statistics.median(own_ms):.0f} ms (95 %: {p95(own_ms):.0f} ms)")
