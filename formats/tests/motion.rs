//! Motion files, read back by small readers that share nothing with the writers: what a file says must be the poses.
//! `tests/python/check_motion.py` asks other people's software the same.

use formats::motion::{MotionClip, bvh, c3d, csv, gltf, ndjson, trc};
use nalgebra::{Matrix4, Quaternion, Rotation3, UnitQuaternion, Vector3};
use pose::{JOINTS, Pose3, filter::constant_bone_lengths, skeleton::NAMES};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Someone who walks along +y, turns and swings the arms, with bones that change their length by a tenth.
fn walker(frames: usize) -> Vec<Pose3> {
    let rest: [[f64; 3]; JOINTS] = [
        [0.0, 0.0, 900.0],
        [130.0, 0.0, 900.0],
        [140.0, 40.0, 480.0],
        [140.0, -60.0, 80.0],
        [-130.0, 0.0, 900.0],
        [-140.0, 60.0, 490.0],
        [-140.0, 20.0, 90.0],
        [0.0, 20.0, 1140.0],
        [0.0, 0.0, 1390.0],
        [0.0, 40.0, 1480.0],
        [0.0, 20.0, 1590.0],
        [-160.0, 0.0, 1380.0],
        [-220.0, -60.0, 1110.0],
        [-210.0, 120.0, 930.0],
        [160.0, 0.0, 1380.0],
        [230.0, 30.0, 1110.0],
        [200.0, 250.0, 1000.0],
    ];
    let pose = |i: usize| {
        let time = i as f64 / 25.0;
        let heading = Rotation3::from_axis_angle(&Vector3::z_axis(), 0.9 * time);
        let place = Vector3::new(300.0 * time.sin(), 1200.0 * time, 0.0);
        std::array::from_fn(|j| {
            let swing = |k: usize| 40.0 * (3.0 * time + 1.7 * j as f64 + k as f64).sin();
            let joint = Vector3::from(rest[j]) + Vector3::new(swing(0), swing(1), swing(2));
            (heading * joint + place).cast::<f32>().into()
        })
    };
    (0..frames).map(pose).collect()
}

fn times_s(frames: usize) -> Vec<f64> {
    (0..frames).map(|i| 2.0 + i as f64 / 25.0).collect()
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Positions by joint name, mm with z up, of each frame.
type Tracks = BTreeMap<String, Vec<Vector3<f64>>>;

/// Metres with y up to mm with z up.
fn z_up_mm(p: Vector3<f64>) -> Vector3<f64> {
    Vector3::new(p.x, -p.z, p.y) * 1000.0
}

#[track_caller]
fn assert_tracks(found: &Tracks, expected: &[Pose3], tolerance_mm: f64) {
    for (j, name) in NAMES.iter().enumerate() {
        let track = &found[*name];
        assert_eq!(track.len(), expected.len(), "{name}");
        for (i, (p, pose)) in track.iter().zip(expected).enumerate() {
            let apart = (p - Vector3::from(pose[j]).cast::<f64>()).norm();
            assert!(apart < tolerance_mm, "frame {i}, {name}: {p:?} and not {:?}", pose[j]);
        }
    }
}

// --- BVH ---

#[derive(Debug)]
struct BvhJoint {
    name: String,
    parent: Option<usize>,
    offset: Vector3<f64>,
    channels: Vec<String>,
}

struct Bvh {
    joints: Vec<BvhJoint>,
    frame_time_s: f64,
    frames: Vec<Vec<f64>>,
}

fn read_bvh(path: &PathBuf) -> Bvh {
    let text = fs::read_to_string(path).unwrap();
    let (hierarchy, motion) = text.split_once("MOTION\n").unwrap();
    let mut tokens = hierarchy.split_whitespace();
    let (mut joints, mut open): (Vec<BvhJoint>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
    let mut next = None; // the joint whose brace comes next; None for an end site
    while let Some(token) = tokens.next() {
        match token {
            "HIERARCHY" => {}
            "ROOT" | "JOINT" => {
                let name = tokens.next().unwrap().to_owned();
                let parent = open.last().copied().flatten();
                joints.push(BvhJoint { name, parent, offset: Vector3::zeros(), channels: Vec::new() });
                next = Some(joints.len() - 1);
            }
            "End" => {
                tokens.next();
                next = None;
            }
            "{" => open.push(next),
            "}" => drop(open.pop()),
            "OFFSET" => {
                let offset = Vector3::from_fn(|_, _| tokens.next().unwrap().parse().unwrap());
                if let Some(Some(joint)) = open.last() {
                    joints[*joint].offset = offset;
                } else {
                    assert!(offset.norm() > 0.0, "an end site has a length");
                }
            }
            "CHANNELS" => {
                let n: usize = tokens.next().unwrap().parse().unwrap();
                joints[open.last().unwrap().unwrap()].channels = (0..n).map(|_| tokens.next().unwrap().to_owned()).collect();
            }
            other => panic!("{other}"),
        }
    }
    let mut lines = motion.lines();
    let value = |line: Option<&str>| line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    let (n, frame_time_s) = (value(lines.next()) as usize, value(lines.next()));
    let frames: Vec<Vec<f64>> = lines.map(|line| line.split(' ').map(|v| v.parse().unwrap()).collect()).collect();
    assert_eq!(frames.len(), n);
    Bvh { joints, frame_time_s, frames }
}

fn bvh_tracks(bvh: &Bvh, metres: f64) -> Tracks {
    let mut tracks = Tracks::new();
    for frame in &bvh.frames {
        let mut values = frame.iter();
        let mut placed: Vec<(Vector3<f64>, Rotation3<f64>)> = Vec::new();
        for joint in &bvh.joints {
            let (mut at, mut rotation) = (joint.offset, Rotation3::identity());
            for channel in &joint.channels {
                let v = *values.next().unwrap();
                let about = |axis| Rotation3::from_axis_angle(&axis, v.to_radians());
                match channel.as_str() {
                    "Xposition" => at.x = v,
                    "Yposition" => at.y = v,
                    "Zposition" => at.z = v,
                    "Xrotation" => rotation *= about(Vector3::x_axis()),
                    "Yrotation" => rotation *= about(Vector3::y_axis()),
                    "Zrotation" => rotation *= about(Vector3::z_axis()),
                    other => panic!("{other}"),
                }
            }
            if let Some(parent) = joint.parent {
                let (parent_at, parent_rotation) = placed[parent];
                (at, rotation) = (parent_at + parent_rotation * at, parent_rotation * rotation);
            }
            placed.push((at, rotation));
            tracks.entry(joint.name.clone()).or_default().push(z_up_mm(at * metres));
        }
        assert!(values.next().is_none());
    }
    tracks
}

#[test]
fn bvh_rotations_give_the_poses_of_constant_bones() {
    let (scratch, poses, times_s) = (Scratch::new(), walker(150), times_s(150));
    let clip = MotionClip::new(&poses, &times_s).unwrap();
    let (expected, lengths_mm) = constant_bone_lengths(&poses).unwrap();
    for (unit, metres) in [(bvh::Unit::Metres, 1.0), (bvh::Unit::Centimetres, 0.01)] {
        let path = scratch.file("walker.bvh");
        bvh::write(&path, &clip, unit).unwrap();
        let file = read_bvh(&path);
        assert!((file.frame_time_s - 0.04).abs() < 1e-9);
        assert_tracks(&bvh_tracks(&file, metres), &expected, 0.05);
        let thigh = file.joints.iter().find(|joint| joint.name == "RKnee").unwrap();
        assert!((thigh.offset * metres * 1000.0 + Vector3::y() * f64::from(lengths_mm[1])).norm() < 0.01, "{thigh:?}");
        // no angle jumps, though the walker turns by more than a circle
        for pair in file.frames.windows(2) {
            let jump = pair[0].iter().zip(&pair[1]).skip(3).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(jump < 60.0, "{jump}");
        }
    }
}

// --- GLB ---

struct Glb {
    document: serde_json::Value,
    binary: Vec<u8>,
}

impl Glb {
    fn read(path: &PathBuf) -> Self {
        let bytes = fs::read(path).unwrap();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((&bytes[..4], word(4), word(8)), (&b"glTF"[..], 2, bytes.len()));
        let json = word(12);
        assert_eq!(&bytes[16..20], b"JSON");
        assert_eq!(&bytes[24 + json..28 + json], b"BIN\0");
        let binary = bytes[28 + json..].to_vec();
        assert_eq!(word(20 + json), binary.len());
        Self { document: serde_json::from_slice(&bytes[20..20 + json]).unwrap(), binary }
    }

    fn floats<const N: usize>(&self, accessor: &serde_json::Value) -> Vec<[f32; N]> {
        let accessor = &self.document["accessors"][accessor.as_u64().unwrap() as usize];
        assert_eq!(accessor["componentType"], 5126);
        let view = &self.document["bufferViews"][accessor["bufferView"].as_u64().unwrap() as usize];
        let (start, length) = (view["byteOffset"].as_u64().unwrap() as usize, view["byteLength"].as_u64().unwrap() as usize);
        let bytes = &self.binary[start..start + length];
        let floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(accessor["count"], floats.len() / N);
        floats.as_chunks::<N>().0.to_vec()
    }

    fn nodes(&self) -> &Vec<serde_json::Value> {
        self.document["nodes"].as_array().unwrap()
    }

    fn parents(&self) -> Vec<Option<usize>> {
        let mut parents = vec![None; self.nodes().len()];
        for (i, node) in self.nodes().iter().enumerate() {
            for child in node["children"].as_array().into_iter().flatten() {
                parents[child.as_u64().unwrap() as usize] = Some(i);
            }
        }
        parents
    }

    /// World matrices of all nodes in frame `i`, or at rest.
    fn matrices(&self, frame: Option<usize>) -> Vec<Matrix4<f64>> {
        let translation = |node: &serde_json::Value| Vector3::from_fn(|k, _| node["translation"][k].as_f64().unwrap_or(0.0));
        let mut local: Vec<_> = self.nodes().iter().map(|node| (translation(node), UnitQuaternion::identity())).collect();
        let animation = &self.document["animations"][0];
        for channel in animation["channels"].as_array().unwrap() {
            let (Some(frame), node) = (frame, channel["target"]["node"].as_u64().unwrap() as usize) else { break };
            let output = &animation["samplers"][channel["sampler"].as_u64().unwrap() as usize]["output"];
            match channel["target"]["path"].as_str().unwrap() {
                "translation" => local[node].0 = Vector3::from(self.floats::<3>(output)[frame]).cast(),
                "rotation" => {
                    let [x, y, z, w] = self.floats::<4>(output)[frame].map(f64::from);
                    local[node].1 = UnitQuaternion::new_normalize(Quaternion::new(w, x, y, z));
                }
                other => panic!("{other}"),
            }
        }
        let mut world: Vec<Matrix4<f64>> = Vec::new();
        for ((translation, rotation), parent) in local.into_iter().zip(self.parents()) {
            let matrix = Matrix4::new_translation(&translation) * rotation.to_homogeneous();
            world.push(parent.map_or(matrix, |parent| world[parent] * matrix));
        }
        world
    }
}

#[test]
fn glb_animates_the_poses_of_constant_bones() {
    let (scratch, poses) = (Scratch::new(), walker(40));
    let mut times_s = times_s(40);
    times_s[20..].iter_mut().for_each(|t| *t += 0.3); // a gap: glTF keeps real times
    let path = scratch.file("walker.glb");
    gltf::write_glb(&path, &MotionClip::new(&poses, &times_s).unwrap()).unwrap();
    let glb = Glb::read(&path);
    let mut tracks = Tracks::new();
    for i in 0..poses.len() {
        for (node, matrix) in glb.nodes().iter().zip(glb.matrices(Some(i))) {
            let at = z_up_mm(matrix.column(3).xyz());
            tracks.entry(node["name"].as_str().unwrap().to_owned()).or_default().push(at);
        }
    }
    assert_tracks(&tracks, &constant_bone_lengths(&poses).unwrap().0, 0.05);

    let animation = &glb.document["animations"][0];
    let found_s = glb.floats::<1>(&animation["samplers"][0]["input"]);
    assert!(found_s.iter().zip(&times_s).all(|(a, b)| (f64::from(a[0]) - (b - 2.0)).abs() < 1e-6));
    assert_eq!(animation["samplers"].as_array().unwrap().len(), 1 + 23 - 6, "all joints but the fixed ones turn");

    // at rest the skin moves nothing, and the body's vertices are where its bones are
    let rest = glb.matrices(None);
    for (i, inverse) in glb.floats::<16>(&glb.document["skins"][0]["inverseBindMatrices"]).iter().enumerate() {
        let inverse = Matrix4::from_column_slice(&inverse.map(f64::from));
        assert!((rest[i] * inverse - Matrix4::identity()).norm() < 1e-5);
    }
    let primitives = glb.document["meshes"][0]["primitives"].as_array().unwrap();
    let mut triangles = 0;
    for primitive in primitives {
        let (positions, normals) =
            (glb.floats::<3>(&primitive["attributes"]["POSITION"]), glb.floats::<3>(&primitive["attributes"]["NORMAL"]));
        assert!(positions.iter().all(|[x, y, _]| x.abs() < 1.0 && (-0.1..1.8).contains(y)));
        assert!(normals.iter().all(|n| (Vector3::from(*n).norm() - 1.0).abs() < 1e-5));
        triangles += positions.len() / 3;
    }
    assert_eq!(triangles, 8 * (17 + 16), "an octahedron for each joint and each bone");
}

// --- tables ---

fn numbers(line: &str, separator: char) -> Vec<f64> {
    line.split(separator).map(|cell| if cell.is_empty() { f64::NAN } else { cell.parse().unwrap() }).collect()
}

#[test]
fn trc_holds_the_poses_y_up() {
    let (scratch, poses, times_s) = (Scratch::new(), walker(30), times_s(30));
    let path = scratch.file("walker.trc");
    trc::write(&path, &MotionClip::new(&poses, &times_s).unwrap()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "PathFileType\t4\t(X/Y/Z)\twalker.trc");
    assert!(lines[2].starts_with("25.000000\t25.000000\t30\t17\tmm\t"), "{}", lines[2]);
    let names: Vec<&str> = lines[3].split('\t').skip(2).step_by(3).collect();
    assert_eq!(names, NAMES);
    assert_eq!(lines[4].split('\t').count(), 2 + 3 * JOINTS);
    assert_eq!((lines[5], lines.len()), ("", 6 + 30));
    let mut tracks = Tracks::new();
    for (i, line) in lines[6..].iter().enumerate() {
        let row = numbers(line, '\t');
        assert_eq!(row.len(), 2 + 3 * JOINTS);
        assert_eq!(row[0], i as f64 + 1.0);
        assert!((row[1] - times_s[i]).abs() < 1e-6);
        for (j, name) in names.iter().enumerate() {
            let p = Vector3::new(row[2 + 3 * j], row[3 + 3 * j], row[4 + 3 * j]);
            tracks.entry((*name).to_owned()).or_default().push(z_up_mm(p / 1000.0));
        }
    }
    assert_tracks(&tracks, &poses, 0.001);
}

#[test]
fn csv_and_ndjson_hold_the_poses_as_they_are() {
    let (scratch, mut poses, times_s) = (Scratch::new(), walker(30), times_s(30));
    poses[3][15] = poses[3][14]; // an arm without a bone has no elbow
    let clip = MotionClip::new(&poses, &times_s).unwrap();
    let path = scratch.file("walker.csv");
    csv::write_positions(&path, &clip).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("time_s,Hip_x_mm,Hip_y_mm,Hip_z_mm,RHip_x_mm,"), "{text}");
    let rows: Vec<Vec<f64>> = text.lines().skip(1).map(|line| numbers(line, ',')).collect();
    assert_eq!(rows.len(), 30);
    for ((row, pose), time_s) in rows.iter().zip(&poses).zip(&times_s) {
        assert_eq!(row.len(), 1 + 3 * JOINTS);
        let expected = std::iter::once(*time_s).chain(pose.as_flattened().iter().map(|v| f64::from(*v)));
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3));
    }

    let path = scratch.file("angles.csv");
    csv::write_angles(&path, &clip).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    assert_eq!(header[1..], pose::angle::NAMES);
    for ((line, pose), i) in text.lines().skip(1).zip(&poses).zip(0..) {
        let expected = pose::angle::joint_angles(pose).values_deg();
        let row = numbers(line, ',');
        assert!(row[1..].iter().zip(expected).all(|(a, b)| (a - f64::from(b)).abs() < 1e-3 || (a.is_nan() && b.is_nan())), "{line}");
        assert_eq!(row.iter().filter(|v| v.is_nan()).count(), if i == 3 { 3 } else { 0 });
    }

    let path = scratch.file("walker.ndjson");
    ndjson::write(&path, &clip).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for ((line, pose), time_s) in text.lines().zip(&poses).zip(&times_s) {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["time_s"].as_f64(), Some(*time_s));
        assert_eq!(&serde_json::from_value::<Pose3>(json["world_mm"].clone()).unwrap(), pose);
    }
    assert_eq!(text.lines().count(), 30);
}

// --- C3D ---

#[test]
fn c3d_holds_the_poses_z_up() {
    let (scratch, poses) = (Scratch::new(), walker(30));
    let path = scratch.file("walker.c3d");
    c3d::write(&path, &MotionClip::new(&poses, &times_s(30)).unwrap()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let word = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()) as usize;
    let float = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((bytes[0], bytes[1], word(2), word(6), word(8)), (2, 0x50, JOINTS, 1, 30));
    assert_eq!((float(12), float(20)), (-1.0, 25.0));

    // the parameters: records of (length of name, group), name, distance to the next
    let (mut at, mut found, mut group_names) = (512 + 4, BTreeMap::new(), BTreeMap::new());
    while bytes[at] != 0 {
        let (length, group) = (bytes[at] as usize, bytes[at + 1] as i8);
        let name = String::from_utf8(bytes[at + 2..at + 2 + length].to_vec()).unwrap();
        let next = at + 2 + length;
        match group {
            ..0 => drop(group_names.insert(-group, name)),
            _ => drop(found.insert(format!("{}:{name}", group_names[&group]), next + 2)),
        }
        at = next + word(next);
    }
    let data = 512 * (word(16) - 1);
    assert!(at < data && bytes.len() == data + 30 * JOINTS * 16);
    assert_eq!(word(found["POINT:DATA_START"] + 2), word(16));
    assert_eq!(bytes[512 + 2] as usize, word(16) - 2, "blocks of parameters");
    assert_eq!((word(found["POINT:USED"] + 2), float(found["POINT:RATE"] + 2)), (JOINTS, 25.0));
    assert_eq!(word(found["TRIAL:ACTUAL_END_FIELD"] + 3), 30);
    let labels = found["POINT:LABELS"];
    let (width, count) = (bytes[labels + 2] as usize, bytes[labels + 3] as usize);
    let label = |j: usize| std::str::from_utf8(&bytes[labels + 4 + width * j..][..width]).unwrap().trim_end();
    assert_eq!((0..count).map(label).collect::<Vec<_>>(), NAMES);

    let values: Vec<f32> = (0..30 * JOINTS * 4).map(|i| float(data + 4 * i)).collect();
    for (point, expected) in values.as_chunks::<4>().0.iter().zip(poses.iter().flatten()) {
        let [x, y, z, cameras_and_residual] = *point;
        assert_eq!(([x, y, z], cameras_and_residual), (*expected, 0.0), "exactly, and valid");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the poses, the rotations give the positions.
    #[test]
    fn any_poses_come_back(clip in prop::collection::vec(prop::array::uniform17(prop::array::uniform3(-1000f32..1000.0)), 1..5)) {
        let (scratch, times_s) = (Scratch::new(), times_s(clip.len()));
        let (expected, _) = constant_bone_lengths(&clip).unwrap();
        let motion = MotionClip::new(&clip, &times_s).unwrap();
        let path = scratch.file("any.bvh");
        bvh::write(&path, &motion, bvh::Unit::Metres).unwrap();
        assert_tracks(&bvh_tracks(&read_bvh(&path), 1.0), &expected, 0.05);
        let path = scratch.file("any.glb");
        gltf::write_glb(&path, &motion).unwrap();
        let glb = Glb::read(&path);
        for (i, pose) in expected.iter().enumerate() {
            let world = glb.matrices(Some(i));
            for (node, matrix) in glb.nodes().iter().zip(world) {
                let Some(j) = NAMES.iter().position(|name| node["name"] == *name) else { continue };
                let apart = (z_up_mm(matrix.column(3).xyz()) - Vector3::from(pose[j]).cast::<f64>()).norm();
                prop_assert!(apart < 0.05, "{}: {}", NAMES[j], apart);
            }
        }
    }
}
