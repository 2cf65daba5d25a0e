//! The poses as rotations of a skeleton, which is what BVH and glTF hold.
//!
//! # Rest pose
//! A T-pose in metres, y up, that faces +z, so the person's left is +x: legs and back along y, arms along x. Its bones have
//! the median lengths of the clip. In the rest pose all joints have the axes of the world.
//!
//! # Joints
//! The 17 joints of [`pose::skeleton`] by their names, and six helpers. One rotation cannot point the three bones that leave the
//! pelvis (or the thorax) in three directions of their own, so each of these bones has a joint of length 0 for itself, as in
//! the CMU data base: `RHipJoint`, `LHipJoint` and `LowerBack` at the hip, `Neck`, `LCollar` and `RCollar` at the thorax. So
//! every position is met exactly. (For whom retargets: pelvis and rib cage are the rotations of `Hip` and `Spine`; those of the
//! helpers are small, those of `LowerBack` and `Neck` apart.)
//!
//! # Rotations
//! Joint positions do not show how a bone is turned about itself. The rules:
//! * the pelvis (`Hip`) has its x axis along the hips, and y towards the spine;
//! * the rib cage (`Spine`) has its y axis along itself, and x along the shoulders;
//! * knees and elbows are hinges: thigh and upper arm are turned about themselves so that the joint below bends about one axis
//!   (x for the knee, y for the elbow). A limb that is nearly straight does not show its hinge; there the turn fades out;
//! * any other bone swings from its rest direction the shortest way, without a turn about itself;
//! * `Thorax` and the ends (feet, hands, top of the head) do not turn against their parent.

use crate::error::{Error, Result};
use nalgebra::{Matrix3, Rotation3, Unit, UnitQuaternion, Vector3};
use pose::{Pose3, filter};

/// A joint of the rig.
pub(super) struct Joint {
    pub(super) name: &'static str,
    /// Index in [`JOINTS`]; it comes before.
    pub(super) parent: Option<usize>,
    /// The joint of the pose whose place it has.
    pub(super) at: usize,
    turns: Turns,
}

enum Turns {
    Pelvis,
    RibCage,
    /// The shortest way from the rest direction.
    Swing,
    /// As `Swing`, then about itself until the next joint's hinge lies along this axis of the rest pose.
    AboveHinge(Vector3<f64>),
    WithParent,
}

pub(super) const N_JOINTS: usize = 23;

/// All joints, depth first.
#[rustfmt::skip]
pub(super) const JOINTS: [Joint; N_JOINTS] = {
    const fn joint(name: &'static str, parent: usize, at: usize, turns: Turns) -> Joint {
        Joint { name, parent: Some(parent), at, turns }
    }
    use Turns::*;
    // the axis about which shank or forearm turns, by the right hand, when the limb bends
    const KNEE: Vector3<f64> = Vector3::new(1.0, 0.0, 0.0);
    const L_ELBOW: Vector3<f64> = Vector3::new(0.0, -1.0, 0.0);
    const R_ELBOW: Vector3<f64> = Vector3::new(0.0, 1.0, 0.0);
    [
        Joint { name: "Hip", parent: None, at: 0, turns: Pelvis },
        joint("RHipJoint", 0, 0, Swing),
        joint("RHip", 1, 1, AboveHinge(KNEE)),
        joint("RKnee", 2, 2, Swing),
        joint("RFoot", 3, 3, WithParent),
        joint("LHipJoint", 0, 0, Swing),
        joint("LHip", 5, 4, AboveHinge(KNEE)),
        joint("LKnee", 6, 5, Swing),
        joint("LFoot", 7, 6, WithParent),
        joint("LowerBack", 0, 0, Swing),
        joint("Spine", 9, 7, RibCage),
        joint("Thorax", 10, 8, WithParent),
        joint("Neck", 11, 8, Swing),
        joint("Nose", 12, 9, Swing),
        joint("Head", 13, 10, WithParent),
        joint("LCollar", 11, 8, Swing),
        joint("LShoulder", 15, 11, AboveHinge(L_ELBOW)),
        joint("LElbow", 16, 12, Swing),
        joint("LWrist", 17, 13, WithParent),
        joint("RCollar", 11, 8, Swing),
        joint("RShoulder", 19, 14, AboveHinge(R_ELBOW)),
        joint("RElbow", 20, 15, Swing),
        joint("RWrist", 21, 16, WithParent),
    ]
};

/// Direction in the rest pose of the bone that ends in each joint of the pose; the root has none.
const REST_DIRECTIONS: [[f64; 3]; pose::JOINTS] = {
    const LEFT: [f64; 3] = [1.0, 0.0, 0.0];
    const RIGHT: [f64; 3] = [-1.0, 0.0, 0.0];
    const UP: [f64; 3] = [0.0, 1.0, 0.0];
    const DOWN: [f64; 3] = [0.0, -1.0, 0.0];
    [[0.0; 3], RIGHT, DOWN, DOWN, LEFT, DOWN, DOWN, UP, UP, UP, UP, LEFT, LEFT, LEFT, RIGHT, RIGHT, RIGHT]
};

/// Sine of the angle of a knee or elbow under which its hinge is not seen, and over which it is trusted: 10 and 30 degrees.
const HINGE_SEEN: std::ops::Range<f64> = 0.17..0.5;

/// A clip as rotations. Metres, y up.
pub(super) struct RiggedMotion {
    /// Rest position of each joint from its parent.
    pub(super) offsets_m: [Vector3<f64>; N_JOINTS],
    pub(super) frames: Vec<RiggedFrame>,
}

pub(super) struct RiggedFrame {
    /// Position of the root.
    pub(super) root_m: Vector3<f64>,
    /// Rotation of each joint against its parent (the root's against the world).
    pub(super) rotations: [UnitQuaternion<f64>; N_JOINTS],
}

/// Rest direction of the bone that ends where this joint is.
pub(super) fn rest_direction(joint: usize) -> Vector3<f64> {
    REST_DIRECTIONS[JOINTS[joint].at].into()
}

/// The first child of a joint.
pub(super) fn child(joint: usize) -> Option<usize> {
    // depth first: the first child follows at once
    JOINTS.get(joint + 1).filter(|next| next.parent == Some(joint)).map(|_| joint + 1)
}

/// Whether a joint always stands as its parent does.
pub(super) fn is_fixed(joint: usize) -> bool {
    matches!(JOINTS[joint].turns, Turns::WithParent)
}

impl RiggedMotion {
    /// Poses in world space (mm, z up), checked to be finite.
    pub(super) fn new(poses_mm: &[Pose3]) -> Result<Self> {
        let (poses_mm, lengths_mm) = filter::constant_bone_lengths(poses_mm).map_err(|error| Error::content(error.to_string()))?;
        let offset_m = |joint: usize| match JOINTS[joint].parent {
            // bone b ends in joint b + 1 of the pose
            Some(parent) if JOINTS[parent].at != JOINTS[joint].at => {
                rest_direction(joint) * f64::from(lengths_mm[JOINTS[joint].at - 1]) / 1000.0
            }
            _ => Vector3::zeros(),
        };
        Ok(Self { offsets_m: std::array::from_fn(offset_m), frames: poses_mm.iter().map(rigged_frame).collect() })
    }
}

pub(super) fn rigged_frame(pose_mm: &Pose3) -> RiggedFrame {
    let pose_m = pose_mm.map(|p| Vector3::from(super::y_up(p)).cast::<f64>() / 1000.0);
    let mut world = [UnitQuaternion::identity(); N_JOINTS];
    let mut rotations = world;
    for (j, joint) in JOINTS.iter().enumerate() {
        let parent = joint.parent.map_or(UnitQuaternion::identity(), |parent| world[parent]);
        world[j] = orientation(&pose_m, j, parent);
        rotations[j] = parent.inverse() * world[j];
    }
    RiggedFrame { root_m: pose_m[pose::ROOT], rotations }
}

/// The orientation of a joint in the world.
fn orientation(pose_m: &[Vector3<f64>; pose::JOINTS], joint: usize, parent: UnitQuaternion<f64>) -> UnitQuaternion<f64> {
    let [r_hip, l_hip, spine, l_shoulder, r_shoulder] = [1, 4, 7, 11, 14]; // of the pose
    let between = |from: usize, to: usize| pose_m[to] - pose_m[from];
    // the bone that this joint moves
    let bone = |joint: usize| child(joint).map(|next| (between(JOINTS[joint].at, JOINTS[next].at), rest_direction(next)));
    match &JOINTS[joint].turns {
        Turns::WithParent => parent,
        Turns::Pelvis => {
            let (left, up) = (between(r_hip, l_hip), between(pose::ROOT, spine));
            frame(left, up, |left, up| (left, (up - up.dot(&left) * left).normalize())).unwrap_or(parent)
        }
        Turns::RibCage => {
            let (Some((up, rest)), left) = (bone(joint), between(r_shoulder, l_shoulder)) else { return parent };
            let upright = frame(left, up, |left, up| ((left - left.dot(&up) * up).normalize(), up));
            upright.unwrap_or_else(|| swing(parent, rest, up))
        }
        Turns::Swing => bone(joint).map_or(parent, |(along, rest)| swing(parent, rest, along)),
        Turns::AboveHinge(axis) => {
            let (Some((along, rest)), Some((below, _))) = (bone(joint), child(joint).and_then(bone)) else { return parent };
            turn_to_hinge(swing(parent, rest, along), along, below, axis)
        }
    }
}

/// Orientation whose x axis is left and y axis up; `square` makes the two unit vectors perpendicular. `None` where they are
/// (nearly) parallel or have no length.
fn frame(
    left: Vector3<f64>,
    up: Vector3<f64>,
    square: impl FnOnce(Vector3<f64>, Vector3<f64>) -> (Vector3<f64>, Vector3<f64>),
) -> Option<UnitQuaternion<f64>> {
    let (left, up) = (left.try_normalize(1e-9)?, up.try_normalize(1e-9)?);
    if left.cross(&up).norm() < 1e-3 {
        return None;
    }
    let (left, up) = square(left, up);
    let axes = Rotation3::from_matrix_unchecked(Matrix3::from_columns(&[left, up, left.cross(&up)]));
    Some(UnitQuaternion::from_rotation_matrix(&axes))
}

/// The parent's orientation, swung the shortest way so that `rest` points along `along`.
fn swing(parent: UnitQuaternion<f64>, rest: Vector3<f64>, along: Vector3<f64>) -> UnitQuaternion<f64> {
    let from = parent * rest;
    if along.norm() < 1e-9 {
        return parent; // a bone of no length points nowhere
    }
    let shortest = UnitQuaternion::rotation_between(&from, &along);
    // straight back: all ways are equally long, so one is fixed
    let half_turn =
        || UnitQuaternion::from_axis_angle(&Unit::new_normalize(parent * Vector3::new(rest.y, rest.z, rest.x)), std::f64::consts::PI);
    shortest.unwrap_or_else(half_turn) * parent
}

/// Turns a bone that points along `along` about itself, until the hinge to the bone `below` lies along `axis` (of the rest pose).
fn turn_to_hinge(swung: UnitQuaternion<f64>, along: Vector3<f64>, below: Vector3<f64>, axis: &Vector3<f64>) -> UnitQuaternion<f64> {
    let (Some(along), Some(below)) = (along.try_normalize(1e-9), below.try_normalize(1e-9)) else { return swung };
    let hinge = along.cross(&below);
    let seen = ((hinge.norm() - HINGE_SEEN.start) / (HINGE_SEEN.end - HINGE_SEEN.start)).clamp(0.0, 1.0);
    if seen == 0.0 {
        return swung;
    }
    let trust = seen * seen * (3.0 - 2.0 * seen); // smoothly from 0 to 1
    let now = swung * axis;
    let wanted = (1.0 - trust) * now + trust * hinge.normalize();
    let angle = along.dot(&now.cross(&wanted)).atan2(now.dot(&wanted));
    UnitQuaternion::from_axis_angle(&Unit::new_unchecked(along), angle) * swung
}

#[cfg(test)]
mod tests {
    use super::*;
    use pose::skeleton;

    /// Positions of all joints in metres, y up.
    fn positions(motion: &RiggedMotion, frame: &RiggedFrame) -> [Vector3<f64>; N_JOINTS] {
        let (mut at, mut world) = ([Vector3::zeros(); N_JOINTS], [UnitQuaternion::identity(); N_JOINTS]);
        for j in 0..N_JOINTS {
            (at[j], world[j]) = match JOINTS[j].parent {
                None => (frame.root_m, frame.rotations[j]),
                Some(p) => (at[p] + world[p] * motion.offsets_m[j], world[p] * frame.rotations[j]),
            };
        }
        at
    }

    fn named(name: &str) -> usize {
        JOINTS.iter().position(|joint| joint.name == name).unwrap()
    }

    /// The rest pose as a pose in world space, mm: feet at z = 0, faces -y, left is +x.
    fn t_pose() -> Pose3 {
        let lengths = [130.0, 420.0, 410.0, 130.0, 420.0, 410.0, 240.0, 250.0, 90.0, 110.0, 160.0, 280.0, 250.0, 160.0, 280.0, 250.0];
        let mut pose = [[0.0, 0.0, 830.0]; pose::JOINTS];
        for (b, &(parent, child)) in skeleton::BONES.iter().enumerate() {
            let [x, y, z] = REST_DIRECTIONS[child];
            let world = [x, -z, y]; // y up to z up
            pose[child] = std::array::from_fn(|k| pose[parent][k] + lengths[b] * world[k] as f32);
        }
        pose
    }

    #[test]
    fn the_tree_is_that_of_the_pose() {
        for (j, joint) in JOINTS.iter().enumerate() {
            let Some(parent) = joint.parent else { continue };
            assert!(parent < j);
            let (from, to) = (JOINTS[parent].at, joint.at);
            assert!(from == to || skeleton::PARENTS[to] == Some(from), "{}", joint.name);
            if from != to {
                assert_eq!(skeleton::NAMES[to], joint.name);
            }
        }
        assert_eq!(child(named("RFoot")), None);
        assert_eq!(child(named("RWrist")), None);
        assert_eq!(child(named("Hip")), Some(1));
    }

    #[test]
    fn the_rest_pose_has_no_rotations() {
        let motion = RiggedMotion::new(&[t_pose()]).unwrap();
        for (joint, rotation) in JOINTS.iter().zip(&motion.frames[0].rotations) {
            assert!(rotation.angle() < 1e-6, "{}: {rotation}", joint.name);
        }
        let at = positions(&motion, &motion.frames[0]);
        assert!((at[named("LWrist")] - Vector3::new(0.69, 1.32, 0.0)).norm() < 1e-6, "{:?}", at[named("LWrist")]);
    }

    #[test]
    fn knee_and_elbow_turn_about_their_hinge_alone() {
        let mut pose = t_pose();
        // the left thigh forward and out, its shank down; the left forearm forward and up
        let at = |pose: &Pose3, j: usize| Vector3::from(pose[j]);
        pose[5] = (at(&pose, 4) + 420.0 * Vector3::new(0.3f32, -0.9, -0.1).normalize()).into();
        pose[6] = (at(&pose, 5) + 410.0 * Vector3::new(0.1f32, 0.1, -1.0).normalize()).into();
        pose[13] = (at(&pose, 12) + 250.0 * Vector3::new(0.1f32, -1.0, 1.0).normalize()).into();
        let motion = RiggedMotion::new(&[pose]).unwrap();
        let axis_of = |name: &str| motion.frames[0].rotations[named(name)].scaled_axis();
        let (knee, elbow) = (axis_of("LKnee"), axis_of("LElbow"));
        assert!(knee.x > 1.0 && knee.yz().norm() < 1e-6, "a knee bends backwards, about +x: {knee:?}");
        assert!(elbow.y < -1.0 && elbow.xz().norm() < 1e-6, "a left elbow bends forwards, about -y: {elbow:?}");
    }

    #[test]
    fn a_turned_trunk_turns_the_rib_cage_and_not_the_collars() {
        let mut pose = t_pose();
        // shoulders and arms turned by 40 degrees about the vertical
        let (sin, cos) = 40f32.to_radians().sin_cos();
        for j in 11..17 {
            let [x, y, z] = pose[j];
            pose[j] = [cos * x - sin * y, sin * x + cos * y, z];
        }
        let motion = RiggedMotion::new(&[pose]).unwrap();
        let rotations = &motion.frames[0].rotations;
        assert!((rotations[named("Spine")].scaled_axis() - Vector3::new(0.0, 40f64.to_radians(), 0.0)).norm() < 1e-5);
        assert!(rotations[named("LCollar")].angle() < 1e-5 && rotations[named("RShoulder")].angle() < 1e-5);
    }

    #[test]
    fn degenerate_poses_stay_finite_and_right() {
        let mut folded = t_pose();
        // straight back: legs up, arms crossed to the other side, spine down, and all hips on one point
        let mirrored: Pose3 = folded.map(|[x, y, z]| [-x, y, 1660.0 - z]);
        folded[1..].copy_from_slice(&mirrored[1..]);
        let mut hipless = t_pose();
        (hipless[1], hipless[4]) = (hipless[0], hipless[0]);
        for clip in [[folded, folded], [hipless, hipless], [[[5.0; 3]; pose::JOINTS]; 2], [t_pose(), folded]] {
            let motion = RiggedMotion::new(&clip).unwrap();
            let (expected, _) = filter::constant_bone_lengths(&clip).unwrap();
            for (frame, pose) in motion.frames.iter().zip(&expected) {
                let at = positions(&motion, frame);
                for (j, joint) in JOINTS.iter().enumerate() {
                    let expected_m = Vector3::from(crate::motion::y_up(pose[joint.at])).cast::<f64>() / 1000.0;
                    assert!((at[j] - expected_m).norm() < 1e-5, "{}: {:?} and not {expected_m:?}", joint.name, at[j]);
                }
            }
        }
    }
}
