"""Serves a video (H.264 in MP4) at its own rate as rtsp://127.0.0.1:PORT/clip, until it is ended. See rtsp.sh.

    python3 rtsp_server.py PORT CLIP.mp4       # Debian: gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad python3-gi
    python3 rtsp_server.py PORT --clock        # a painted person whose place says what time it is; needs gstreamer1.0-plugins-ugly (x264enc)
"""

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

WIDTH, HEIGHT, FPS = 640, 480, 25
STANDING = [(0, -148), (17, -166), (-17, -166), (36, -156), (-36, -156), (38, -120), (-38, -120), (58, -62), (-58, -62), (66, -8), (-66, -8),
            (24, 0), (-24, 0), (28, 88), (-28, 88), (30, 170), (-30, 170)]  # as in demo/tests/live.rs
LEVELS = [25, 95, 165, 235]
COLOURS = [(r, g, b) for r in LEVELS for g in LEVELS for b in LEVELS if not (r == g == b)]  # as in demo/tests/data/make_detectors.py
PERIOD_S, FIRST_PX, WAY_PX = 8.0, 120.0, 400.0


def hips_px(wall_s):
    """Where the middle of the hips is at a moment: to the right and back within the period."""
    share = (wall_s % PERIOD_S) / PERIOD_S
    return FIRST_PX + WAY_PX * (1 - abs(2 * share - 1))


def painted(wall_s, radius=9):
    picture = bytearray(WIDTH * HEIGHT * 3)
    for (dx, dy), colour in zip(STANDING, COLOURS):
        x, y = round(hips_px(wall_s)) + dx, 245 + dy
        for row in range(y - radius, y + radius + 1):
            half = int((radius**2 - (row - y) ** 2) ** 0.5)
            left, right = max(x - half, 0), min(x + half + 1, WIDTH)
            picture[(row * WIDTH + left) * 3 : (row * WIDTH + right) * 3] = bytes(colour) * (right - left)
    return bytes(picture)


class Clock(GstRtspServer.RTSPMediaFactory):
    """Pictures are painted when the encoder asks for them, which it does at the frame rate."""

    def do_create_element(self, _url):
        pipeline = Gst.parse_launch(
            f"appsrc name=source is-live=true format=time do-timestamp=true caps=video/x-raw,format=RGB,width={WIDTH},height={HEIGHT},framerate={FPS}/1 "
            "! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=8000 key-int-max=25 "
            "! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96")
        pipeline.get_by_name("source").connect("need-data", self.paint)
        return pipeline

    def paint(self, source, _length):
        time.sleep(max(0.0, 1 / FPS - time.time() % (1 / FPS)))
        source.emit("push-buffer", Gst.Buffer.new_wrapped(painted(time.time())))


def main():
    port, what = sys.argv[1:3]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    if what == "--clock":
        factory = Clock()
    else:
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( filesrc location={what} ! qtdemux ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )")
    server.get_mount_points().add_factory("/clip", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    print(f"rtsp://127.0.0.1:{port}/clip", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
