#!/usr/bin/env python3
"""Starts `runtime serve` and talks to it with other people's clients: websockets (examples/python/live_client.py) and tritonclient.

    pip install websockets "tritonclient[http,grpc]" onnxruntime numpy
    python tests/python/check_server.py target/debug/runtime models/clip-xs.onnx
"""
import json
import math
import pathlib
import signal
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import tritonclient.grpc
import tritonclient.http

ROOT = pathlib.Path(__file__).resolve().parents[2]
# a person who stands, in pixels from the pelvis, Human3.6M order
PERSON = [(0, 0), (-25, 2), (-28, 100), (-30, 195), (25, 2), (27, 101), (31, 196), (0, -55), (0, -110), (0, -135), (0, -165),
          (40, -105), (60, -50), (62, 5), (-40, -104), (-61, -48), (-64, 6)]


def clip():
    """40 frames of somebody who sways; one frame without a person, one joint missing."""
    frames = [[[640 + x + 8 * math.sin(0.2 * t) * y / 100, 360 + y, 0.9] for x, y in PERSON] for t in range(40)]
    frames[20] = None
    frames[25][3] = None
    return {"format": "poselift-keypoints/1", "skeleton": "h36m17", "image": {"width": 1280, "height": 720}, "fps": 30, "frames": frames}


def check_streams(runtime, model, address, folder):
    """JSON and binary over the network against `runtime lift --stream`."""
    (folder / "clip.json").write_text(json.dumps(clip()))
    lines = "\n".join(json.dumps({"time_s": t / 30, "keypoints": frame}) for t, frame in enumerate(clip()["frames"]))
    command = [runtime, "lift", model, "--stream", "--image-size", "1280x720", "--look-ahead", "2"]
    answer = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    expected = np.array([json.loads(line)["world_mm"] for line in answer.stdout.splitlines()])
    for form in ([], ["--binary"]):
        command = [sys.executable, ROOT / "examples/python/live_client.py", folder / "clip.json", "--url", f"ws://{address}/v1/stream",
                   "--look-ahead", "2", "--out", folder / "poses.ndjson", *form]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = np.array([json.loads(line)["world_mm"] for line in (folder / "poses.ndjson").read_text().splitlines()])
        assert found.shape == expected.shape == (40, 17, 3), (found.shape, expected.shape)
        worst = np.abs(found - expected).max()
        assert worst < 0.1, worst
        print(f"live_client.py {' '.join(form)}: 40 poses, within {worst:.1e} mm of `runtime lift --stream`")


def check_infer(model, name, http, grpc):
    """Both of Triton's clients against onnxruntime on the file itself."""
    session = onnxruntime.InferenceSession(model)
    (port,), (out,) = session.get_inputs(), session.get_outputs()
    values = np.random.default_rng(0).normal(0, 0.3, (3, port.shape[1] if isinstance(port.shape[1], int) else 27, 17, port.shape[3])).astype(np.float32)
    expected = session.run(None, {port.name: values})[0]
    for kind, address, options in ((tritonclient.http, http, {"binary_data": True}), (tritonclient.http, http, {"binary_data": False}), (tritonclient.grpc, grpc, {})):
        client = kind.InferenceServerClient(address)
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)
        metadata = client.get_model_metadata(name)
        names = [metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]] if isinstance(metadata, dict) else [metadata.inputs[0].name, metadata.outputs[0].name]
        assert names == [port.name, out.name], names
        tensor = kind.InferInput(port.name, list(values.shape), "FP32")
        tensor.set_data_from_numpy(values, **options)
        found = client.infer(name, [tensor], outputs=[kind.InferRequestedOutput(out.name, **options)]).as_numpy(out.name)
        share = (np.abs(found - expected) < 1e-4).mean()
        assert found.shape == expected.shape and share > 0.99, share
        print(f"{kind.__name__} {options}: {100 * share:.2f} % within 1e-4 of onnxruntime")
        try:
            client.infer("other", [tensor])
            raise AssertionError("a model that is not there")
        except tritonclient.utils.InferenceServerException as error:
            assert "there is no model" in str(error), error


def main():
    runtime, model = sys.argv[1:3]
    command = [runtime, "--json", "serve", model, "--port", "0", "--grpc-port", "0", "--queue-frames", "1000", "--output-poses", "1000"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        about = json.loads(server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            check_streams(runtime, model, about["http"], pathlib.Path(folder))
        check_infer(model, about["model"], about["http"], about["grpc"])
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0, server.returncode
    finally:
        server.kill()


if __name__ == "__main__":
    main()
