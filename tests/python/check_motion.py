#!/usr/bin/env python3
"""Reads poselift's motion files with other people's software and compares them with the poses that were written.

    cargo run -p formats --example write_motion -- ../shared/data/mocap/tiny_test.npz out/motion
    python3 -m venv out/venv && out/venv/bin/pip install numpy pandas bvhtoolbox ezc3d c3d pygltflib trimesh
    out/venv/bin/python tests/python/check_motion.py out/motion

A reader that is not installed is named and left out. Two large ones are worth their size: `opensim` (TRC), and Blender itself, `bpy`, which wants
a Python of its own version and another numpy, hence an environment of its own (`--only blender` runs it alone).

BVH and GLB hold poses whose bones are constant: they must agree to 5 mm with those, computed here anew; how far these are from the poses
as they came in is printed beside. TRC, C3D, CSV and NDJSON must agree to 0.1 mm. Exit status 1 when anything does not.
"""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np

NAMES = "Hip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Nose Head LShoulder LElbow LWrist RShoulder RElbow RWrist".split()
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]
ROTATIONS_MM = 5.0
POSITIONS_MM = 0.1


def constant_bones(poses_mm):
    """(T, 17, 3) -> the same with each bone at its median length, its direction kept."""
    fixed = poses_mm.copy()
    for child, parent in enumerate(PARENTS):
        if parent >= 0:
            along = poses_mm[:, child] - poses_mm[:, parent]
            length = np.linalg.norm(along, axis=-1, keepdims=True)
            fixed[:, child] = fixed[:, parent] + np.median(length) * along / length
    return fixed


def z_up(points):
    """x, y, z with y up -> with z up."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def at_even_times(poses_mm, times_s):
    """What a format without times holds: the clip itself, or, if its times are uneven, the clip at the rate of its median step."""
    fps = (len(times_s) - 1) / (times_s[-1] - times_s[0])
    if np.abs((times_s - times_s[0]) * fps - np.arange(len(times_s))).max() <= 0.1:
        return poses_mm, fps
    fps = 1 / np.median(np.diff(times_s))
    even_s = times_s[0] + np.arange(int(np.ceil((times_s[-1] - times_s[0]) * fps - 1e-3)) + 1) / fps
    flat = poses_mm.reshape(len(poses_mm), -1)
    columns = [np.interp(even_s, times_s, flat[:, k]) for k in range(flat.shape[1])]
    return np.stack(columns, axis=-1).reshape(-1, *poses_mm.shape[1:]), fps


# Each reader: path -> (poses in mm with z up (T, 17, 3), frame rate or None, times in s or None)


def read_bvh_with_bvhtoolbox(path):
    from bvhtoolbox import BvhTree
    from bvhtoolbox.convert.bvh2csv import write_joint_positions

    table = path.with_suffix(".positions.tmp")
    tree = BvhTree(path.read_text())
    assert write_joint_positions(tree, str(table))  # in metres, 5 decimals (its scale is applied anew at each joint)
    header = table.read_text().split("\n", 1)[0].split(",")
    values = np.loadtxt(table, delimiter=",", skiprows=1, ndmin=2)
    table.unlink()
    pick = lambda name: values[:, [header.index(f"{name}.{axis}") for axis in "xyz"]]
    return z_up(np.stack([pick(name) for name in NAMES], axis=1)) * 1000, 1 / tree.frame_time, None


def read_glb_with_pygltflib(path):
    import pygltflib

    glb = pygltflib.GLTF2().load(str(path))
    blob = glb.binary_blob()

    def array(index):
        accessor = glb.accessors[index]
        view = glb.bufferViews[accessor.bufferView]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor.type]
        start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
        return np.frombuffer(blob, np.float32, accessor.count * width, start).reshape(accessor.count, width).astype(float)

    animation = glb.animations[0]
    times_s = array(animation.samplers[0].input)[:, 0]
    local = {}
    for i, node in enumerate(glb.nodes):
        local[i] = np.tile(np.eye(4), (len(times_s), 1, 1))
        local[i][:, :3, 3] = node.translation or [0, 0, 0]
    for channel in animation.channels:
        values = array(animation.samplers[channel.sampler].output)
        if channel.target.path == "translation":
            local[channel.target.node][:, :3, 3] = values
        else:
            x, y, z, w = values.T
            rows = [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
            local[channel.target.node][:, :3, :3] = np.moveaxis(np.array(rows), -1, 0)
    world = {}

    def place(i, parent):
        world[i] = parent @ local[i]
        for child in glb.nodes[i].children or []:
            place(child, world[i])

    for root in glb.scenes[glb.scene].nodes:
        place(root, np.eye(4))
    by_name = {node.name: i for i, node in enumerate(glb.nodes)}
    joints_m = np.stack([world[by_name[name]][:, :3, 3] for name in NAMES], axis=1)
    return z_up(joints_m) * 1000, None, times_s


def read_trc_with_pandas(path):
    import pandas

    lines = path.read_text().split("\n")
    fps, units = float(lines[2].split("\t")[0]), lines[2].split("\t")[4]
    assert units == "mm", units
    names = lines[3].split("\t")[2::3]
    table = pandas.read_csv(path, sep="\t", skiprows=6, header=None).to_numpy()
    points = table[:, 2:].reshape(len(table), len(names), 3)
    return z_up(points[:, [names.index(name) for name in NAMES]]), fps, table[:, 1]


def read_trc_with_opensim(path):
    import opensim

    table = opensim.TimeSeriesTableVec3(str(path))
    assert table.getTableMetaDataString("Units") == "mm"
    flat = table.flatten()
    values = flat.getMatrix().to_numpy().reshape(flat.getNumRows(), -1, 3)
    labels = list(table.getColumnLabels())
    fps = float(table.getTableMetaDataString("DataRate"))
    return z_up(values[:, [labels.index(name) for name in NAMES]]), fps, np.array(table.getIndependentColumn())


def read_c3d_with_ezc3d(path):
    import ezc3d

    file = ezc3d.c3d(str(path))
    point = file["parameters"]["POINT"]
    assert point["UNITS"]["value"] == ["mm"], point["UNITS"]["value"]
    labels = point["LABELS"]["value"]
    data = file["data"]["points"]  # (4, points, frames)
    assert (file["data"]["meta_points"]["residuals"] == 0).all()
    points = np.moveaxis(data[:3], 0, -1).swapaxes(0, 1)
    return points[:, [labels.index(name) for name in NAMES]], file["header"]["points"]["frame_rate"], None


def read_c3d_with_c3d(path):
    import c3d

    with open(path, "rb") as handle:
        reader = c3d.Reader(handle)
        labels = [label.strip() for label in reader.point_labels]
        points = np.array([points[:, :3] for _, points, _ in reader.read_frames()], dtype=float)
        fps = reader.point_rate
    return points[:, [labels.index(name) for name in NAMES]], fps, None


def read_csv_with_pandas(path):
    import pandas

    table = pandas.read_csv(path)
    points = np.stack([table[[f"{name}_{axis}_mm" for axis in "xyz"]].to_numpy() for name in NAMES], axis=1)
    return points, None, table["time_s"].to_numpy()


def read_ndjson(path):
    frames = [json.loads(line) for line in path.read_text().splitlines()]
    return np.array([frame["world_mm"] for frame in frames]), None, np.array([frame["time_s"] for frame in frames])


def with_blender(fill):
    """Opens an empty scene, lets `fill` import a file, and returns the armature that came."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    fill(bpy)
    armatures = [thing for thing in bpy.data.objects if thing.type == "ARMATURE"]
    assert len(armatures) == 1, [thing.name for thing in bpy.data.objects]
    return bpy, armatures[0]


def heads_in_blender(bpy, armature, frames, names=NAMES):
    """World positions of the bones' heads in mm at these (fractional) frames; Blender's z is up."""
    joints = np.empty((len(frames), len(names), 3))
    for t, frame in enumerate(frames):
        bpy.context.scene.frame_set(int(np.floor(frame)), subframe=float(frame - np.floor(frame)))
        for j, name in enumerate(names):
            joints[t, j] = armature.matrix_world @ armature.pose.bones[name].head
    return joints * 1000


def read_bvh_with_blender(path):
    # with the importer's own settings: y up, metres
    bpy, armature = with_blender(lambda bpy: bpy.ops.import_anim.bvh(filepath=str(path), update_scene_fps=False))
    first, last = armature.animation_data.action.frame_range
    return heads_in_blender(bpy, armature, np.arange(first, last + 1)), None, None


def read_glb_with_blender(path):
    bpy, armature = with_blender(lambda bpy: bpy.ops.import_scene.gltf(filepath=str(path)))
    body = [thing for thing in bpy.data.objects if thing.type == "MESH"]
    assert any(thing.name == "Body" and len(thing.data.polygons) == 33 * 8 for thing in body), "no body"
    curves = armature.animation_data.action.layers[0].strips[0].channelbags[0].fcurves
    frames = np.array([point.co[0] for point in curves[0].keyframe_points])
    fps = bpy.context.scene.render.fps / bpy.context.scene.render.fps_base
    return heads_in_blender(bpy, armature, frames), None, (frames - frames[0]) / fps


READERS = [
    ("bvhtoolbox", "bvh", read_bvh_with_bvhtoolbox),
    ("bpy", "bvh", read_bvh_with_blender),
    ("pygltflib", "glb", read_glb_with_pygltflib),
    ("bpy", "glb", read_glb_with_blender),
    ("pandas", "trc", read_trc_with_pandas),
    ("opensim", "trc", read_trc_with_opensim),
    ("ezc3d", "c3d", read_c3d_with_ezc3d),
    ("c3d", "c3d", read_c3d_with_c3d),
    ("pandas", "csv", read_csv_with_pandas),
    ("json", "ndjson", read_ndjson),
]


def compare(source, extension, read, path):
    """Largest distance (mm) to what the file must hold, and to the poses as they came in; raises where rate, times or shape are wrong."""
    poses_mm, times_s = source["world_mm"].astype(float), source["times_s"]
    expected_mm, fps = poses_mm, (len(times_s) - 1) / (times_s[-1] - times_s[0])
    if extension in ("bvh", "c3d"):
        expected_mm, fps = at_even_times(poses_mm, times_s)
    raw_mm = expected_mm
    if extension in ("bvh", "glb"):
        expected_mm = constant_bones(raw_mm)
    found_mm, found_fps, found_s = read(path)
    assert found_mm.shape == expected_mm.shape, f"{found_mm.shape} and not {expected_mm.shape}"
    assert found_fps is None or abs(found_fps - fps) < 0.001 * fps, f"{found_fps} frames a second and not {fps}"
    if found_s is not None:
        start_s = times_s[0] if extension == "glb" else 0.0  # glTF's times count from the first frame
        assert np.abs(found_s - (times_s - start_s)).max() < 1e-4, "times differ"
    distance = lambda a, b: np.linalg.norm(a - b, axis=-1)
    return distance(found_mm, expected_mm).max(), distance(found_mm, raw_mm).mean(), distance(found_mm, raw_mm).max()


def check_body_with_trimesh(folder):
    """The body in its T-pose, as a viewer without animation shows it: closed, as tall as a person."""
    import trimesh

    for path in sorted(folder.glob("*_mocap.glb")):
        scene = trimesh.load(path, force="scene")
        low, high = scene.bounds
        assert 1.2 < (high - low)[1] < 2.1 and 1.0 < (high - low)[0] < 2.2, scene.bounds
        for mesh in scene.geometry.values():
            mesh.merge_vertices(merge_norm=True)
            assert mesh.is_watertight and mesh.volume > 0, path
    print("trimesh      glb     the body is closed and as large as a person")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", help="'blender' or another reader's package")
    parser.add_argument("--clips", type=int, default=10**9, help="clips to read of each kind")
    arguments = parser.parse_args()
    only = "bpy" if arguments.only == "blender" else arguments.only
    failed = ran = 0
    for package, extension, read in READERS:
        if only not in (None, package):
            continue
        try:
            importlib.import_module(package)
        except ImportError as error:
            print(f"{package:12} {extension:7} left out: {error}")
            continue
        limit_mm = ROTATIONS_MM if extension in ("bvh", "glb") else POSITIONS_MM
        for kind in ("mocap", "lifted", "uneven", "long"):
            paths = sorted(arguments.folder.glob("long." + extension if kind == "long" else f"*_{kind}.{extension}"))[: arguments.clips]
            worst, raw_mean, raw_max = 0.0, [], 0.0
            for path in paths:
                source = np.load(path.with_suffix(".npz"))
                try:
                    error_mm, mean_mm, max_mm = compare(source, extension, read, path)
                except Exception as error:  # whatever the reader dislikes is a finding
                    print(f"FAILED {package} {path.name}: {type(error).__name__}: {error}")
                    failed += 1
                    continue
                worst, raw_max = max(worst, error_mm), max(raw_max, max_mm)
                raw_mean.append(mean_mm)
            if raw_mean:
                ran += 1
                failed += worst > limit_mm
                verdict = "ok" if worst <= limit_mm else "TOO FAR"
                raw = f"; from the raw poses {np.mean(raw_mean):.2f} mm in the mean, {raw_max:.2f} at most" if limit_mm == ROTATIONS_MM else ""
                print(f"{package:12} {extension:7} {kind:7} {len(raw_mean):3} files  {worst:9.5f} mm at most (limit {limit_mm}) {verdict}{raw}")
    if only in (None, "trimesh"):
        try:
            check_body_with_trimesh(arguments.folder)
            ran += 1
        except ImportError as error:
            print(f"trimesh      glb     left out: {error}")
    print(f"{ran} checks, {failed} failed")
    sys.exit(1 if failed or not ran else 0)


if __name__ == "__main__":
    main()
