#!/usr/bin/env python3
"""Lifts a file of 2D keypoints with plain Python onnxruntime, with or without our operator library.

    pip install onnxruntime numpy
    python run_model.py MODEL.onnx KEYPOINTS.json --out poses.npy [--ops libposelift_ops.so]

KEYPOINTS: JSON with {"skeleton": "h36m17", "image": {"width", "height"}, "frames": [[[x_px, y_px, confidence] * 17] * frames]}, where a
missing joint or frame is null. OUT: (frames, 17, 3) in f32, 2.5D: x right, y down, z away, all in half sizes of the normalisation's
box, relative to the hip. `runtime lift` does this too, and goes on to millimetres; this file shows how little is needed.
"""
import argparse
import json
import sys
import time

import numpy as np
import onnxruntime


def read_keypoints(path):
    """Keypoints (frames, 17, 3) in pixels, missing ones 0, and the picture's width and height."""
    with open(path) as file:
        clip = json.load(file)
    if clip.get("skeleton") != "h36m17":
        sys.exit(f"{path}: expected the skeleton h36m17, found {clip.get('skeleton')}; `runtime lift` maps the others")
    keypoints = np.zeros((len(clip["frames"]), 17, 3), np.float32)
    for t, frame in enumerate(clip["frames"]):
        for j, joint in enumerate(frame or []):
            if joint is not None:
                keypoints[t, j, : len(joint)] = joint
                keypoints[t, j, 2] = joint[2] if len(joint) > 2 else 1.0
    return keypoints, clip["image"]["width"], clip["image"]["height"]


def normalise(window, how, width, height):
    """Pixels to the network's units: by the picture, or by the box around the person over the window (times 1.1)."""
    if how == "frame":
        centre, half_size = np.array([width, height]) / 2.0, width / 2.0
    else:
        seen = window[..., :2][window[..., 2] >= 0.1]
        if len(seen) == 0:
            sys.exit("no keypoint of a window is confident; there is nothing to lift")
        low, high = seen.min(0), seen.max(0)
        centre, half_size = (low + high) / 2.0, 1.1 * (high - low).max() / 2.0
    normalised = window.copy()
    normalised[..., :2] = (window[..., :2] - centre) / max(half_size, 1.0)
    normalised[window[..., 2] <= 0.0, :2] = 0.0
    return normalised


def windows(frames, length):
    """Starts of windows that cover the clip; the last one is moved back, so that it ends with the clip."""
    return sorted({min(start, max(frames - length, 0)) for start in range(0, frames, length)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("keypoints")
    parser.add_argument("--out", required=True, help="a .npy file")
    parser.add_argument("--ops", help="libposelift_ops.so: our scan instead of the function body in the file")
    arguments = parser.parse_args()

    options = onnxruntime.SessionOptions()
    if arguments.ops:
        options.register_custom_ops_library(arguments.ops)
    session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["poselift"])
    (port,) = session.get_inputs()
    length, dim_in = metadata["frames"], metadata["dim_in"]

    keypoints, width, height = read_keypoints(arguments.keypoints)
    frames = len(keypoints)
    if frames == 0:
        sys.exit(f"{arguments.keypoints}: has no frames")
    if frames < length:  # the last frame stands still
        keypoints = np.concatenate([keypoints, np.repeat(keypoints[-1:], length - frames, 0)])
    starts = windows(len(keypoints), length)
    batch = np.stack([normalise(keypoints[start : start + length], metadata["normalisation"], width, height) for start in starts])

    start_s = time.perf_counter()
    lifted = session.run(None, {port.name: batch[..., :dim_in]})[0]  # (windows, length, 17, 3)
    elapsed_s = time.perf_counter() - start_s
    poses = np.empty((len(keypoints), 17, 3), np.float32)
    for start, window in zip(starts, lifted):
        poses[start : start + length] = window
    np.save(arguments.out, poses[:frames] - poses[:frames, :1])
    print(f"{metadata['name']}: {frames} frames in {len(starts)} windows, {1e3 * elapsed_s:.1f} ms {'with our operator' if arguments.ops else 'with the function body'}")


if __name__ == "__main__":
    main()
