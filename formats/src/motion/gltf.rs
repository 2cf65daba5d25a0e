//! glTF 2.0 in one binary file (GLB): an animated, skinned skeleton.
//!
//! Metres, y up: world `(x, y, z)` is `(x, z, -y)` here; Blender and most engines turn it back on import. The nodes are the joints of the
//! [BVH files](super::bvh), by the same names, in the same T-pose; one animation, `motion`, holds a rotation for each joint that turns and the
//! root's translation, at the clip's own times, counted from its first frame. So that any viewer shows something, the skin
//! carries a simple body: an octahedron for each bone and each joint, the person's left blue, right orange, the middle grey.

use super::{
    MotionClip,
    rig::{self, JOINTS, N_JOINTS, RiggedMotion},
    write_file,
};
use crate::error::{Error, Result, refuse};
use nalgebra::{UnitQuaternion, Vector3};
use pose::skeleton;
use serde_json::{Value as Json, json};
use std::{io::Write, path::Path};

/// Writes the clip as GLB. Aside, then renamed.
///
/// # Errors
/// A file of more than 4 GiB, a clip so long that two frames share one time in single precision, and every refusal of the
/// operating system.
pub fn write_glb(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    let content = || {
        let times_s = times_from_0(clip.times_s())?;
        let (document, binary) = document(&RiggedMotion::new(clip.poses_mm())?, &times_s);
        glb(document.to_string().into_bytes(), binary)
    };
    let chunks = content().map_err(|error| error.in_file(path))?;
    write_file(path, |out| chunks.iter().try_for_each(|chunk| out.write_all(chunk)))
}

fn times_from_0(times_s: &[f64]) -> Result<Vec<f32>> {
    let from_0: Vec<f32> = times_s.iter().map(|t| (t - times_s[0]) as f32).collect();
    if let Some(frame) = from_0.windows(2).position(|pair| pair[0] >= pair[1]) {
        let time_s = times_s[frame];
        refuse!("frames {frame} and {} at {time_s} s: their times are one in glTF's single precision; write a shorter clip", frame + 1);
    }
    Ok(from_0)
}

/// The file's header and its two chunks.
fn glb(mut json: Vec<u8>, mut binary: Vec<u8>) -> Result<[Vec<u8>; 5]> {
    json.resize(json.len().next_multiple_of(4), b' ');
    binary.resize(binary.len().next_multiple_of(4), 0);
    let total = 12 + 8 + json.len() + 8 + binary.len();
    let Ok(total) = u32::try_from(total) else {
        refuse!("expected at most 4 GiB for a GLB file, found {total} bytes; write a shorter clip")
    };
    let words = |words: [u32; 2]| words.map(u32::to_le_bytes).concat();
    // both fit, as their sum does
    let (json_head, binary_head) = (words([json.len() as u32, 0x4E4F_534A]), words([binary.len() as u32, 0x004E_4942]));
    Ok([[&b"glTF"[..], &words([2, total])].concat(), json_head, json, binary_head, binary])
}

fn document(motion: &RiggedMotion, times_s: &[f32]) -> (Json, Vec<u8>) {
    let mut buffer = Buffer::default();
    let rest_m = rest_positions(motion);
    let (skin, mesh) = (skin(&mut buffer, &rest_m), mesh(&mut buffer, motion, &rest_m));
    let animation = animation(&mut buffer, motion, times_s);
    let mut nodes: Vec<Json> = (0..N_JOINTS).map(|joint| node(motion, joint, &rest_m)).collect();
    nodes.push(json!({ "name": "Body", "mesh": 0, "skin": 0 }));
    let document = json!({
        "asset": { "version": "2.0", "generator": concat!("poselift ", env!("CARGO_PKG_VERSION")) },
        "scene": 0,
        "scenes": [{ "nodes": [0, N_JOINTS] }],
        "nodes": nodes,
        "skins": [skin],
        "meshes": [mesh],
        "materials": SIDES.map(|(name, colour)| json!({
            "name": name,
            "pbrMetallicRoughness": { "baseColorFactor": colour, "metallicFactor": 0.0, "roughnessFactor": 0.8 },
        })),
        "animations": [animation],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{ "byteLength": buffer.bytes.len() }],
    });
    (document, buffer.bytes)
}

/// The T-pose, ankles on the floor.
fn rest_positions(motion: &RiggedMotion) -> [Vector3<f64>; N_JOINTS] {
    let mut at = [Vector3::zeros(); N_JOINTS];
    for j in 1..N_JOINTS {
        at[j] = JOINTS[j].parent.map_or(at[j], |parent| at[parent]) + motion.offsets_m[j];
    }
    let lowest = at.iter().map(|p| p.y).fold(0.0, f64::min);
    at.map(|p| p - lowest * Vector3::y())
}

fn node(motion: &RiggedMotion, joint: usize, rest_m: &[Vector3<f64>; N_JOINTS]) -> Json {
    let translation_m = if joint == 0 { rest_m[0] } else { motion.offsets_m[joint] };
    let mut node = json!({ "name": JOINTS[joint].name, "translation": <[f64; 3]>::from(translation_m).map(|v| v as f32) });
    let children: Vec<usize> = (0..N_JOINTS).filter(|&other| JOINTS[other].parent == Some(joint)).collect();
    if !children.is_empty() {
        node["children"] = json!(children);
    }
    node
}

fn skin(buffer: &mut Buffer, rest_m: &[Vector3<f64>; N_JOINTS]) -> Json {
    // in the rest pose joints have the world's axes: the inverse of their matrix (column by column) takes their place away
    let inverse_bind = |p: &Vector3<f64>| {
        let [x, y, z] = [-p.x as f32, -p.y as f32, -p.z as f32];
        [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, x, y, z, 1.0]
    };
    let matrices: Vec<[f32; 16]> = rest_m.iter().map(inverse_bind).collect();
    json!({ "joints": (0..N_JOINTS).collect::<Vec<_>>(), "skeleton": 0, "inverseBindMatrices": buffer.floats("MAT4", &matrices, None, false) })
}

fn animation(buffer: &mut Buffer, motion: &RiggedMotion, times_s: &[f32]) -> Json {
    let input = buffer.floats("SCALAR", times_s.as_chunks::<1>().0, None, true);
    let (mut samplers, mut channels) = (Vec::new(), Vec::new());
    let mut channel = |joint: usize, path: &str, output: usize| {
        channels.push(json!({ "sampler": samplers.len(), "target": { "node": joint, "path": path } }));
        samplers.push(json!({ "input": input, "output": output, "interpolation": "LINEAR" }));
    };
    let root_m: Vec<[f32; 3]> = motion.frames.iter().map(|frame| frame.root_m.cast::<f32>().into()).collect();
    channel(0, "translation", buffer.floats("VEC3", &root_m, None, false));
    for joint in (0..N_JOINTS).filter(|&joint| !rig::is_fixed(joint)) {
        let mut before = UnitQuaternion::identity();
        let mut next = |rotation: &UnitQuaternion<f64>| {
            // q and -q are one rotation; neighbours of one sign are interpolated the short way by any reader
            let signed = if before.coords.dot(&rotation.coords) < 0.0 { -rotation.coords } else { rotation.coords };
            before = UnitQuaternion::new_unchecked(signed.into());
            <[f32; 4]>::from(signed.cast::<f32>()) // x, y, z, w
        };
        let rotations: Vec<[f32; 4]> = motion.frames.iter().map(|frame| next(&frame.rotations[joint])).collect();
        channel(joint, "rotation", buffer.floats("VEC4", &rotations, None, false));
    }
    json!({ "name": "motion", "samplers": samplers, "channels": channels })
}

/// Name and colour (linear RGBA) of the parts of the body: left, right, middle.
const SIDES: [(&str, [f64; 4]); 3] =
    [("Left", [0.05, 0.25, 0.80, 1.0]), ("Right", [0.90, 0.25, 0.03, 1.0]), ("Middle", [0.30, 0.30, 0.30, 1.0])];

/// Radius of the octahedron that marks a joint.
const JOINT_RADIUS_M: f64 = 0.025;

/// Triangles of one colour; each belongs to one joint of the rig.
#[derive(Default)]
struct Triangles {
    positions_m: Vec<[f32; 3]>,
    normals: Vec<[f32; 3]>,
    joints: Vec<[u8; 4]>,
}

impl Triangles {
    /// An octahedron around the line from `head` to `tail`, thickest at `belt` of the way.
    fn octahedron(&mut self, joint: usize, head: Vector3<f64>, tail: Vector3<f64>, belt: f64, radius_m: f64) {
        let along = (tail - head).normalize();
        let (right, front) = match along.y.abs() > 0.5 {
            true => (Vector3::x(), along.cross(&Vector3::x()).normalize()),
            false => (Vector3::y(), along.cross(&Vector3::y()).normalize()),
        };
        let centre = head + belt * (tail - head);
        let ring = [right, front, -right, -front].map(|out| centre + radius_m * out);
        for k in 0..4 {
            let (a, b) = (ring[k], ring[(k + 1) % 4]);
            self.triangle(joint, [head, a, b], centre);
            self.triangle(joint, [tail, a, b], centre);
        }
    }

    /// Counter-clockwise as seen from outside, which is away from `inside`.
    fn triangle(&mut self, joint: usize, [a, b, c]: [Vector3<f64>; 3], inside: Vector3<f64>) {
        let normal = (b - a).cross(&(c - a)).normalize();
        let (corners, normal) = if normal.dot(&(a - inside)) < 0.0 { ([a, c, b], -normal) } else { ([a, b, c], normal) };
        for corner in corners {
            self.positions_m.push(corner.cast::<f32>().into());
            self.normals.push(normal.cast::<f32>().into());
            self.joints.push([joint as u8, 0, 0, 0]);
        }
    }
}

fn mesh(buffer: &mut Buffer, motion: &RiggedMotion, rest_m: &[Vector3<f64>; N_JOINTS]) -> Json {
    let mut sides: [Triangles; SIDES.len()] = Default::default();
    for (j, joint) in JOINTS.iter().enumerate() {
        let Some(parent) = joint.parent.filter(|&parent| JOINTS[parent].at != joint.at).or((j == 0).then_some(0)) else {
            continue; // a helper has neither bone nor place of its own
        };
        let triangles = &mut sides[side(joint.at)];
        let (above, below) = (rest_m[j] + JOINT_RADIUS_M * Vector3::y(), rest_m[j] - JOINT_RADIUS_M * Vector3::y());
        triangles.octahedron(j, above, below, 0.5, JOINT_RADIUS_M);
        let length_m = motion.offsets_m[j].norm();
        if length_m > 0.001 {
            triangles.octahedron(parent, rest_m[parent], rest_m[j], 0.2, (0.1 * length_m).clamp(0.01, 0.04));
        }
    }
    let primitive = |(material, t): (usize, &Triangles)| {
        let weights = vec![[u8::MAX, 0, 0, 0]; t.joints.len()];
        json!({
            "attributes": {
                "POSITION": buffer.floats("VEC3", &t.positions_m, Some(VERTICES), true),
                "NORMAL": buffer.floats("VEC3", &t.normals, Some(VERTICES), false),
                "JOINTS_0": buffer.bytes4(&t.joints, false),
                "WEIGHTS_0": buffer.bytes4(&weights, true),
            },
            "material": material,
        })
    };
    json!({ "name": "Body", "primitives": sides.iter().enumerate().map(primitive).collect::<Vec<_>>() })
}

/// Index in [`SIDES`] of a joint of the pose.
fn side(joint: usize) -> usize {
    match joint {
        _ if skeleton::LEFT.contains(&joint) => 0,
        _ if skeleton::RIGHT.contains(&joint) => 1,
        _ => 2,
    }
}

/// Target of a buffer view that holds vertices.
const VERTICES: u32 = 34962;

/// The binary chunk, and what lies where in it.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    views: Vec<Json>,
    accessors: Vec<Json>,
}

impl Buffer {
    /// Appends vectors or matrices of floats; returns their accessor. `bounds`: whether it says their minimum and maximum.
    fn floats<const N: usize>(&mut self, kind: &str, values: &[[f32; N]], target: Option<u32>, bounds: bool) -> usize {
        let bytes = values.as_flattened().iter().flat_map(|v| v.to_le_bytes());
        let mut accessor = json!({ "componentType": 5126, "count": values.len(), "type": kind });
        if bounds {
            let fold = |pick: fn(f32, f32) -> f32| {
                let column = |k: usize| values.iter().map(|v| v[k]).reduce(pick).unwrap_or(0.0);
                json!((0..N).map(column).collect::<Vec<_>>())
            };
            (accessor["min"], accessor["max"]) = (fold(f32::min), fold(f32::max));
        }
        self.append(bytes, target, accessor)
    }

    /// Appends vectors of 4 bytes, which stand for 0..=1 when normalised; returns their accessor.
    fn bytes4(&mut self, values: &[[u8; 4]], normalised: bool) -> usize {
        let mut accessor = json!({ "componentType": 5121, "count": values.len(), "type": "VEC4" });
        if normalised {
            accessor["normalized"] = json!(true);
        }
        self.append(values.as_flattened().iter().copied(), Some(VERTICES), accessor)
    }

    fn append(&mut self, bytes: impl Iterator<Item = u8>, target: Option<u32>, mut accessor: Json) -> usize {
        let start = self.bytes.len(); // a multiple of 4, as all elements are
        self.bytes.extend(bytes);
        let mut view = json!({ "buffer": 0, "byteOffset": start, "byteLength": self.bytes.len() - start });
        if let Some(target) = target {
            view["target"] = json!(target);
        }
        accessor["bufferView"] = json!(self.views.len());
        self.views.push(view);
        self.accessors.push(accessor);
        self.accessors.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_single_precision_cannot_tell_apart_are_refused() {
        assert_eq!(times_from_0(&[100.0, 100.5]).unwrap(), [0.0, 0.5]);
        let error = times_from_0(&[0.0, 1e7, 1e7 + 0.02]).unwrap_err().to_string();
        assert!(error.contains("frames 1 and 2"), "{error}");
    }

    #[test]
    fn faces_look_outwards() {
        let mut t = Triangles::default();
        t.octahedron(0, Vector3::zeros(), Vector3::new(0.3, 0.1, 0.2), 0.2, 0.02);
        assert_eq!(t.positions_m.len(), 24);
        let centre = Vector3::new(0.06f32, 0.02, 0.04);
        for (corners, normal) in t.positions_m.as_chunks::<3>().0.iter().zip(t.normals.iter().step_by(3)) {
            let [a, b, c] = corners.map(Vector3::from);
            let outside = (a + b + c) / 3.0 - centre;
            assert!(Vector3::from(*normal).dot(&outside) > 0.0);
            assert!((b - a).cross(&(c - a)).dot(&outside) > 0.0, "counter-clockwise");
        }
    }
}
