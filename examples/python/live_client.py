#!/usr/bin/env python3
"""Sends a file of 2D keypoints to `runtime serve` as a camera would, and prints where the person is.

    pip install websockets
    runtime serve clip-xs.onnx &
    python live_client.py KEYPOINTS.json [--url ws://127.0.0.1:8000/v1/stream] [--token-file FILE] [--binary] [--fast] [--out poses.ndjson]

KEYPOINTS: the JSON of docs/formats.md. The messages are those of docs/server.md; --binary sends and takes records instead of JSON.
"""
import argparse
import asyncio
import json
import struct
import sys

import websockets

HEAD = struct.Struct("<BBHId")  # type, flags, joints, stream, time_s
POSE = struct.Struct("<BBHIdfff2f3f9f3f17f51f51f51f")


def read_clip(path):
    """Frames, their times in seconds, and the settings of the stream that they make."""
    with open(path) as file:
        clip = json.load(file)
    frames = clip["frames"]
    times_s = clip.get("times_s") or [t / clip["fps"] for t in range(len(frames))]
    return frames, times_s, {"image": clip["image"], "skeleton": clip.get("skeleton", "h36m17")}


def frame_record(stream, time_s, frame):
    """One frame as bytes: a missing joint has confidence 0, a missing person no joints."""
    if frame is None:
        return HEAD.pack(1, 1, 0, stream, time_s)
    joints = [[0.0, 0.0, 0.0] if joint is None else (list(joint) + [1.0])[:3] for joint in frame]
    return HEAD.pack(1, 0, len(joints), stream, time_s) + struct.pack(f"<{3 * len(joints)}f", *(x for joint in joints for x in joint))


def read_pose(message):
    """The fields of a pose that this example prints, from bytes or JSON."""
    if isinstance(message, str):
        return json.loads(message)
    values = POSE.unpack(message)
    world_mm = values[-51:]
    return {"time_s": values[4], "delay_s": values[5], "held": bool(values[1] & 1), "world_mm": [world_mm[i : i + 3] for i in range(0, 51, 3)]}


async def send(socket, stream, frames, times_s, arguments):
    """Frames at the pace of their times, then the end."""
    loop = asyncio.get_running_loop()
    start_s = loop.time() - times_s[0]
    for time_s, frame in zip(times_s, frames):
        # also --fast leaves the server time: more than it can lift would drop the oldest frames
        await asyncio.sleep(0.01 if arguments.fast else max(0.0, start_s + time_s - loop.time()))
        if arguments.binary:
            await socket.send(frame_record(stream, time_s, frame))
        else:
            await socket.send(json.dumps({"time_s": time_s, "keypoints": frame}))
    await socket.send(HEAD.pack(2, 0, 0, stream, 0.0) if arguments.binary else json.dumps({"end": True}))


async def receive(socket, out):
    """Poses until the stream has ended: how many."""
    poses = 0
    async for message in socket:
        about = json.loads(message) if isinstance(message, str) else {}
        if "error" in about or "dropped" in about:
            print(message, file=sys.stderr)
        elif "ended" in about:
            print(f"{poses} poses; {about['ended']}")
            return poses
        else:
            pose = read_pose(message)
            poses += 1
            x, y, z = pose["world_mm"][0]
            print(f"{pose['time_s']:.3f} s, {1e3 * pose['delay_s']:.0f} ms late: the pelvis is at {x:.0f}, {y:.0f}, {z:.0f} mm{' (held)' * pose['held']}")
            if out:
                print(json.dumps({"time_s": pose["time_s"], "world_mm": pose["world_mm"]}), file=out)
    sys.exit(f"the connection was closed: {socket.close_code} {socket.close_reason}")


async def run(arguments):
    frames, times_s, settings = read_clip(arguments.keypoints)
    if not frames:
        sys.exit(f"{arguments.keypoints}: has no frames")
    if arguments.look_ahead is not None:
        settings["look_ahead"] = arguments.look_ahead
    settings["form"] = "binary" if arguments.binary else "json"
    headers = {}
    if arguments.token_file:
        with open(arguments.token_file) as file:
            headers["Authorization"] = f"Bearer {file.read().strip()}"
    async with websockets.connect(arguments.url, additional_headers=headers, compression=None) as socket:
        await socket.send(json.dumps({"open": settings}))
        opened = json.loads(await socket.recv())
        if "error" in opened:
            sys.exit(opened["error"])
        out = open(arguments.out, "w") if arguments.out else None
        stream = opened["opened"]["stream"]
        poses, _ = await asyncio.gather(receive(socket, out), send(socket, stream, frames, times_s, arguments))
    return poses


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keypoints")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/stream")
    parser.add_argument("--token-file")
    parser.add_argument("--look-ahead", type=int, help="frames at the model's rate that are waited for")
    parser.add_argument("--binary", action="store_true", help="records instead of JSON")
    parser.add_argument("--fast", action="store_true", help="100 frames a second instead of the clip's own pace")
    parser.add_argument("--out", help="poses as lines of JSON")
    arguments = parser.parse_args()
    try:
        asyncio.run(run(arguments))
    except (OSError, websockets.exceptions.WebSocketException) as error:
        sys.exit(f"{arguments.url}: {error}")


if __name__ == "__main__":
    main()
