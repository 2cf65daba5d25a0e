#!/usr/bin/env python3
"""Compares the demo's world, from one camera at a time, with what calibrated cameras say together.

    cargo build --release -p demo
    python3 -m venv out/venv && out/venv/bin/pip install numpy && out/venv/bin/pip install --no-deps pose2sim
    out/venv/bin/python tests/python/check_world.py --demo target/release/demo out/world

The clips are the four-camera demo of Pose2Sim: one person over 100 frames. The demo finds the 2D keypoints in each view; the truth is their
triangulation. Then each view alone, with its own lens and the person's height, must say how tall the person stands within 5 % and how far the
person walked within 10 %. Without Pose2Sim nothing is checked, and the script says so. Exit status 1 when a bound is broken.
"""

import argparse
import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np

ROOT, HEAD, ANKLES = 0, 10, (3, 6)
HEIGHT_SHARE, PATH_SHARE = 0.05, 0.10
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]
# The chain of bones from the ankle to the top of the head as a share of the stature (pose::world). The person on the beam never stands straight, so
# that the height of the head does not say it.
CHAIN_TO_STATURE = 0.94


def read_qca(path):
    """Qualisys' calibration -> {name: camera}; p_camera = R p_world + t, metres, OpenCV's axes."""
    cameras = {}
    for camera in xml.etree.ElementTree.parse(path).getroot().findall("cameras/camera"):
        number = lambda tag, key: float(camera.find(tag).attrib[key])
        turn = np.array([[number("transform", f"r{i}{j}") for j in (1, 2, 3)] for i in (1, 2, 3)])
        position = np.array([number("transform", axis) for axis in "xyz"]) / 1000
        flip = np.diag([1.0, -1.0, -1.0])  # Qualisys' cameras look along -z
        left, top = number("fov_video", "left"), number("fov_video", "top")
        intrinsic = lambda key: number("intrinsic", key) / 64
        cameras[camera.attrib["serial"]] = {
            "image_size_px": [number("fov_video", "right") - left + 1, number("fov_video", "bottom") - top + 1],
            "focal_px": [intrinsic("focalLengthU"), intrinsic("focalLengthV")],
            "principal_px": [intrinsic("centerPointU") - left, intrinsic("centerPointV") - top],
            # as Pose2Sim reads them: small enough to be left out
            "distortion": [intrinsic(f"radialDistortion{k}") for k in (1, 2)] + [intrinsic(f"tangentalDistortion{k}") for k in (1, 2)],
            "R": flip @ turn,
            "t": -flip @ turn @ position,
        }
    return cameras


def triangulate(rays, weights, projections):
    """One joint from all views: the best pair's point, then all views that agree with it. rays (V, 2), weights (V,), projections (V, 3, 4)."""

    def solve(views):
        rows = [weights[v] * (rays[v][k] * projections[v][2] - projections[v][k]) for v in views for k in (0, 1)]
        point = np.linalg.svd(np.array(rows))[2][-1]
        return point / point[3]

    def errors(point):
        seen = projections @ point
        return np.hypot(*(seen[:, :2] / seen[:, 2:] - rays).T)

    usable = [v for v in range(len(rays)) if weights[v] > 0.3]
    best = None
    for pair in itertools.combinations(usable, 2):
        off = errors(solve(pair))
        agreeing = [v for v in usable if off[v] < 0.012]
        score = (len(agreeing), -sum(off[v] for v in agreeing))
        if best is None or score > best[0]:
            best = (score, agreeing)
    if best is None or len(best[1]) < 2:
        return np.full(3, np.nan), np.nan
    point = solve(best[1])
    return point[:3], np.mean(errors(point)[best[1]])


def smooth(points, frames):
    """Moving average over 2 * frames + 1 frames, NaN left out."""
    return np.stack([np.nanmean(points[max(0, t - frames) : t + frames + 1], axis=0) for t in range(len(points))])


def path_length(root_mm, fps):
    steps = np.diff(smooth(root_mm[:, :2], int(0.25 * fps)), axis=0)
    return np.hypot(*steps.T).sum()


def body_chain_mm(points_mm):
    bone = lambda child: np.nanmedian(np.linalg.norm(points_mm[:, child] - points_mm[:, PARENTS[child]], axis=-1))
    return sum(map(bone, (2, 3, 5, 6))) / 2 + sum(map(bone, (7, 8, 9, 10)))


def standing_mm(points_mm, up):
    """Height of the head over the lower ankle's usual place while it is highest."""
    head = np.nanpercentile(points_mm[:, HEAD] @ up, 90)
    ankle = np.nanpercentile(np.nanmin([points_mm[:, j] @ up for j in ANKLES], axis=0), 10)
    return head - ankle


def run_demo(demo, video, out, *options):
    out.mkdir(parents=True, exist_ok=True)
    command = [demo, "--video", str(video), "--no-video", "--detector-quality", "heavy", "--out", str(out), *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: {result.stderr.strip().splitlines()[-1]}")
    return json.loads((out / f"{video.stem}.3d.json").read_text())


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=pathlib.Path, help="folder for the demo's files")
    arguments.add_argument("--demo", default="target/debug/demo", help="the program")
    arguments.add_argument("--clips", type=pathlib.Path, help="folder Demo_SinglePerson of Pose2Sim [default: that of the package]")
    arguments = arguments.parse_args()
    clips = arguments.clips
    if clips is None:
        package = importlib.util.find_spec("Pose2Sim")
        if package is None:
            print("skipped: the package pose2sim, whose clips this needs, is not installed (pip install --no-deps pose2sim)")
            return
        clips = pathlib.Path(package.submodule_search_locations[0]) / "Demo_SinglePerson"
    cameras = read_qca(next((clips / "calibration").glob("*.qca.txt")))
    names = sorted(cameras)

    rays, weights, times_s = [], [], None
    for name in names:
        camera = cameras[name]
        seen = run_demo(arguments.demo, clips / "videos" / f"{name}.mp4", arguments.out / "views")
        # two of the videos are eight columns narrower than what was calibrated: cut on the left, as the residuals say
        width, height = seen["image"]["width_px"], seen["image"]["height_px"]
        camera["video_size_px"] = [width, height]
        camera["principal_px"][0] -= camera["image_size_px"][0] - width
        frames = len(seen["all_times_s"])
        points, confidence = np.zeros((frames, 17, 2)), np.zeros((frames, 17))
        points[seen["frame"]] = seen["keypoints_px"]
        confidence[seen["frame"]] = seen["confidence"]
        rays.append((points - camera["principal_px"]) / camera["focal_px"])
        weights.append(confidence)
        times_s = np.array(seen["all_times_s"])
    projections = np.stack([np.column_stack([cameras[name]["R"], cameras[name]["t"]]) for name in names])
    rays, weights = np.stack(rays, axis=2), np.stack(weights, axis=2)  # (frames, joints, views, ...)
    truth_mm = np.full((*rays.shape[:2], 3), np.nan)
    off = np.full(rays.shape[:2], np.nan)
    for t, j in np.ndindex(rays.shape[:2]):
        point_m, off[t, j] = triangulate(rays[t, j], weights[t, j], projections)
        truth_mm[t, j] = 1000 * point_m
    fps = (len(times_s) - 1) / (times_s[-1] - times_s[0])
    up = np.array([0.0, 0.0, 1.0])
    true_height_mm, true_path_mm = standing_mm(truth_mm, up), path_length(truth_mm[:, ROOT], fps)
    floor_mm = np.nanpercentile(np.nanmin(truth_mm[:, ANKLES, 2], axis=1), 10)
    stature_m = body_chain_mm(truth_mm) / CHAIN_TO_STATURE / 1000
    print(
        f"truth from {len(names)} cameras: {np.isfinite(off).mean():.1%} of the joints, {1680 * np.nanmean(off):.1f} px off on average; ankles stand at "
        f"{floor_mm:.0f} mm, head {true_height_mm:.0f} mm over them, stature {stature_m:.2f} m, path {true_path_mm:.0f} mm in {times_s[-1]:.2f} s"
    )

    broken = 0
    for name in names:
        camera = cameras[name]
        lens = arguments.out / f"{name}.lens.json"
        lens.write_text(json.dumps({"focal_px": camera["focal_px"], "principal_px": camera["principal_px"], "image_size_px": camera["video_size_px"]}))
        found = run_demo(
            arguments.demo, clips / "videos" / f"{name}.mp4", arguments.out / "alone", "--intrinsics", str(lens), "--height", f"{stature_m:.3f}"
        )
        world_mm, frames = np.array(found["world_mm"]), np.array(found["frame"])
        here = truth_mm[frames]
        # the same frames of both; gaps of the truth are gaps of both
        known = np.isfinite(here[:, ROOT, 0])
        height = standing_mm(world_mm, up) / true_height_mm - 1
        path_mm, true_here_mm = path_length(world_mm[known][:, ROOT], fps), path_length(here[known][:, ROOT], fps)
        path = path_mm / true_here_mm - 1
        camera_mm = here @ camera["R"].T + 1000 * camera["t"]
        depth = np.array(found["camera_mm"])[:, ROOT, 2] / camera_mm[:, ROOT, 2] - 1
        rotation = np.array(found["world_from_camera"]["rotation"])
        tilt_deg = np.degrees(np.arccos(np.clip(rotation[2] @ camera["R"][:, 2], -1, 1)))
        true_camera_mm = -1000 * camera["R"][:, 2] @ camera["t"]
        standing = np.array(found["contact"])
        verdict = "" if abs(height) < HEIGHT_SHARE and abs(path) < PATH_SHARE else "   OUT OF BOUNDS"
        broken += bool(verdict)
        print(
            f"{name}: height {height:+.1%}, path {path_mm:.0f} of {true_here_mm:.0f} mm ({path:+.1%}), root depth {np.nanmedian(depth):+.1%} "
            f"(spread {np.nanstd(depth):.1%}), up off by {tilt_deg:.1f} degrees, camera at {found['world_from_camera']['translation_mm'][2]:.0f} "
            f"of {true_camera_mm:.0f} mm, feet stand in {standing.any(axis=1).mean():.0%} of the frames{verdict}"
        )
    if broken:
        sys.exit(f"{broken} of {len(names)} views are out of bounds ({HEIGHT_SHARE:.0%} in height, {PATH_SHARE:.0%} in path)")


if __name__ == "__main__":
    main()
