//! Joint angles of a pose, in degrees: knee, hip, elbow and shoulder of both sides.
//!
//! 0 everywhere is a person who stands upright with straight legs and the arms hanging down (the anatomical position).
//!
//! | angle | 0 | positive | range |
//! |---|---|---|---|
//! | knee flexion | straight leg | heel towards the buttock | 0 to 180 |
//! | elbow flexion | straight arm | hand towards the shoulder | 0 to 180 |
//! | hip flexion | thigh in line with the trunk | knee forwards; extension is negative | -180 to 180 |
//! | hip abduction | thigh in the sagittal plane | knee away from the other leg; adduction is negative | -90 to 90 |
//! | shoulder flexion | arm hanging | arm forwards and up, 180 overhead; extension is negative | -180 to 180 |
//! | shoulder abduction | arm in the sagittal plane | arm away from the body; adduction is negative | -90 to 90 |
//!
//! # How they are measured
//! * **Knee, elbow**: the angle between the upper bone (hip to knee) and the lower one (knee to ankle). It has no sign: a knee
//!   that bends the wrong way counts as flexed.
//! * **Hip, shoulder**: the limb's direction `d` (hip to knee, shoulder to elbow) in the trunk's axes: *up* from pelvis to thorax,
//!   *right* from the left hip (shoulder) to the right one, made perpendicular to *up*, and *forward* = up x right. Flexion is
//!   the angle of `d` in the sagittal plane, `atan2(d.forward, -d.up)`; abduction is its angle out of that plane,
//!   `asin(d.outward)`, outward being *right* or its opposite. So an arm that is raised sideways to the horizontal has abduction
//!   90, and one raised sideways to overhead has flexion 180 and abduction 0: the two together say where the limb points, as
//!   longitude and latitude do. Where it points sideways to within [`NO_FLEXION_WITHIN_DEG`] (a T-pose), flexion has no meaning
//!   and is NaN.
//!
//! The hip is measured against the whole trunk, as 17 joints do not show the pelvis' tilt: bending the back flexes the hip.
//!
//! Angles do not depend on scale, place or orientation, but on handedness: world and camera space are both right-handed. An
//! angle whose joints are not finite, or whose bones have no length, is NaN; the others are not touched by it.

use crate::{Pose3, ROOT};
use nalgebra::Vector3;
use serde::{Deserialize, Serialize};

/// Flexion of hip or shoulder is not given for a limb that is this close to the sideways axis.
pub const NO_FLEXION_WITHIN_DEG: f64 = 10.0;

/// The angles' names, in the order of [`JointAngles::values_deg`]: the columns of a table.
pub const NAMES: [&str; 12] = [
    "left_knee_flexion_deg",
    "left_hip_flexion_deg",
    "left_hip_abduction_deg",
    "left_elbow_flexion_deg",
    "left_shoulder_flexion_deg",
    "left_shoulder_abduction_deg",
    "right_knee_flexion_deg",
    "right_hip_flexion_deg",
    "right_hip_abduction_deg",
    "right_elbow_flexion_deg",
    "right_shoulder_flexion_deg",
    "right_shoulder_abduction_deg",
];

/// Angles of one side of the body, in degrees; NaN = unknown. The module's text defines them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct SideAngles {
    pub knee_flexion_deg: f32,
    pub hip_flexion_deg: f32,
    pub hip_abduction_deg: f32,
    pub elbow_flexion_deg: f32,
    pub shoulder_flexion_deg: f32,
    pub shoulder_abduction_deg: f32,
}

/// Angles of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct JointAngles {
    /// The person's left.
    pub left: SideAngles,
    /// The person's right.
    pub right: SideAngles,
}

impl JointAngles {
    /// All angles, in the order of [`NAMES`].
    pub fn values_deg(&self) -> [f32; NAMES.len()] {
        let values = |side: &SideAngles| {
            let SideAngles { knee_flexion_deg, hip_flexion_deg, hip_abduction_deg, .. } = *side;
            let SideAngles { elbow_flexion_deg, shoulder_flexion_deg, shoulder_abduction_deg, .. } = *side;
            [knee_flexion_deg, hip_flexion_deg, hip_abduction_deg, elbow_flexion_deg, shoulder_flexion_deg, shoulder_abduction_deg]
        };
        let both = [values(&self.left), values(&self.right)];
        std::array::from_fn(|i| both[i / 6][i % 6])
    }
}

const THORAX: usize = 8;
/// Hip, knee, ankle.
const LEFT_LEG: [usize; 3] = [4, 5, 6];
const RIGHT_LEG: [usize; 3] = [1, 2, 3];
/// Shoulder, elbow, wrist.
const LEFT_ARM: [usize; 3] = [11, 12, 13];
const RIGHT_ARM: [usize; 3] = [14, 15, 16];

/// The angles of a pose, in any unit and any right-handed axes.
pub fn joint_angles(pose: &Pose3) -> JointAngles {
    let hips = TrunkAxes::new(pose, LEFT_LEG[0], RIGHT_LEG[0]);
    let shoulders = TrunkAxes::new(pose, LEFT_ARM[0], RIGHT_ARM[0]);
    let side = |leg: [usize; 3], arm: [usize; 3], outward: f64| {
        let limb = |axes: &Option<TrunkAxes>, [from, to, _]: [usize; 3]| match (axes, direction(pose, from, to)) {
            (Some(axes), Some(along)) => axes.flexion_and_abduction_deg(along, outward),
            _ => [f32::NAN; 2],
        };
        let [hip_flexion_deg, hip_abduction_deg] = limb(&hips, leg);
        let [shoulder_flexion_deg, shoulder_abduction_deg] = limb(&shoulders, arm);
        SideAngles {
            knee_flexion_deg: bend_deg(pose, leg),
            hip_flexion_deg,
            hip_abduction_deg,
            elbow_flexion_deg: bend_deg(pose, arm),
            shoulder_flexion_deg,
            shoulder_abduction_deg,
        }
    };
    JointAngles { left: side(LEFT_LEG, LEFT_ARM, -1.0), right: side(RIGHT_LEG, RIGHT_ARM, 1.0) }
}

/// Unit vector from one joint to another.
fn direction(pose: &Pose3, from: usize, to: usize) -> Option<Vector3<f64>> {
    let along = Vector3::from(pose[to]).cast::<f64>() - Vector3::from(pose[from]).cast::<f64>();
    // NaN is not above 0
    (along.norm() > 0.0).then(|| along.normalize()).filter(|unit| unit.iter().all(|v| v.is_finite()))
}

/// Angle between the two bones of a limb.
fn bend_deg(pose: &Pose3, [first, middle, last]: [usize; 3]) -> f32 {
    match (direction(pose, first, middle), direction(pose, middle, last)) {
        // atan2 is exact near 0 and 180, where acos is not
        (Some(upper), Some(lower)) => upper.cross(&lower).norm().atan2(upper.dot(&lower)).to_degrees() as f32,
        _ => f32::NAN,
    }
}

/// Unit vectors of the trunk, perpendicular to each other.
struct TrunkAxes {
    up: Vector3<f64>,
    right: Vector3<f64>,
    forward: Vector3<f64>,
}

impl TrunkAxes {
    fn new(pose: &Pose3, left: usize, right: usize) -> Option<Self> {
        let up = direction(pose, ROOT, THORAX)?;
        let across = direction(pose, left, right)?;
        let right = (across - across.dot(&up) * up).try_normalize(1e-3)?;
        Some(Self { up, right, forward: up.cross(&right) })
    }

    /// `outward` is 1 for the right side and -1 for the left one.
    fn flexion_and_abduction_deg(&self, limb: Vector3<f64>, outward: f64) -> [f32; 2] {
        let sideways = outward * limb.dot(&self.right);
        let abduction_deg = sideways.clamp(-1.0, 1.0).asin().to_degrees();
        let flexion_deg = limb.dot(&self.forward).atan2(-limb.dot(&self.up)).to_degrees();
        let has_flexion = abduction_deg.abs() <= 90.0 - NO_FLEXION_WITHIN_DEG;
        [if has_flexion { flexion_deg as f32 } else { f32::NAN }, abduction_deg as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::JOINTS;
    use nalgebra::Rotation3;
    use proptest::prelude::*;

    /// Someone who stands and looks along +y (x right, z up), arms hanging.
    fn standing() -> Pose3 {
        let mut pose = [[0.0; 3]; JOINTS];
        pose[ROOT] = [0.0, 0.0, 900.0];
        for (side, [hip, knee, ankle], [shoulder, elbow, wrist]) in [(1.0, RIGHT_LEG, RIGHT_ARM), (-1.0, LEFT_LEG, LEFT_ARM)] {
            pose[hip] = [130.0 * side, 0.0, 900.0];
            pose[knee] = [130.0 * side, 0.0, 480.0];
            pose[ankle] = [130.0 * side, 0.0, 70.0];
            pose[shoulder] = [170.0 * side, 0.0, 1400.0];
            pose[elbow] = [170.0 * side, 0.0, 1120.0];
            pose[wrist] = [170.0 * side, 0.0, 870.0];
        }
        [pose[7], pose[8], pose[9], pose[10]] = [1150.0, 1400.0, 1480.0, 1590.0].map(|z| [0.0, 0.0, z]);
        pose
    }

    /// Turns a limb's joints from the second on about the first, by an angle about an axis of the world.
    fn turn(pose: &mut Pose3, limb: [usize; 3], axis: Vector3<f32>, angle_deg: f32) {
        turn_joints(pose, limb[0], &limb[1..], axis, angle_deg);
    }

    /// Turns a limb's last joint about its second.
    fn bend(pose: &mut Pose3, limb: [usize; 3], axis: Vector3<f32>, angle_deg: f32) {
        turn_joints(pose, limb[1], &limb[2..], axis, angle_deg);
    }

    fn turn_joints(pose: &mut Pose3, pivot: usize, joints: &[usize], axis: Vector3<f32>, angle_deg: f32) {
        let rotation = Rotation3::new(axis * angle_deg.to_radians());
        let centre = Vector3::from(pose[pivot]);
        joints.iter().for_each(|&j| pose[j] = (rotation * (Vector3::from(pose[j]) - centre) + centre).into());
    }

    fn close(found: f32, expected: f32) -> bool {
        (found - expected).abs() < 0.01 || (found.is_nan() && expected.is_nan())
    }

    #[track_caller]
    fn assert_angles(found: SideAngles, expected: [f32; 6]) {
        let found = JointAngles { left: found, right: found }.values_deg();
        assert!(found.iter().zip(expected).all(|(f, e)| close(*f, e)), "{found:?} and not {expected:?}");
    }

    #[test]
    fn standing_is_zero() {
        let angles = joint_angles(&standing());
        assert_angles(angles.left, [0.0; 6]);
        assert_angles(angles.right, [0.0; 6]);
    }

    #[test]
    fn legs() {
        let mut pose = standing();
        // a chair: thighs forward, shanks down
        for leg in [LEFT_LEG, RIGHT_LEG] {
            turn(&mut pose, leg, Vector3::x(), 90.0);
            bend(&mut pose, leg, Vector3::x(), -90.0);
        }
        assert_angles(joint_angles(&pose).left, [90.0, 90.0, 0.0, 0.0, 0.0, 0.0]);
        assert_angles(joint_angles(&pose).right, [90.0, 90.0, 0.0, 0.0, 0.0, 0.0]);

        let mut pose = standing();
        turn(&mut pose, LEFT_LEG, Vector3::x(), -20.0); // backwards
        turn(&mut pose, RIGHT_LEG, Vector3::y(), -30.0); // out to the right
        assert_angles(joint_angles(&pose).left, [0.0, -20.0, 0.0, 0.0, 0.0, 0.0]);
        assert_angles(joint_angles(&pose).right, [0.0, 0.0, 30.0, 0.0, 0.0, 0.0]);
        let mut pose = standing();
        turn(&mut pose, LEFT_LEG, Vector3::y(), -10.0); // across, to the right
        assert_angles(joint_angles(&pose).left, [0.0, 0.0, -10.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn arms() {
        let mut pose = standing();
        turn(&mut pose, LEFT_ARM, Vector3::x(), 90.0); // forwards
        turn(&mut pose, RIGHT_ARM, Vector3::x(), -40.0); // backwards
        assert_angles(joint_angles(&pose).left, [0.0, 0.0, 0.0, 0.0, 90.0, 0.0]);
        assert_angles(joint_angles(&pose).right, [0.0, 0.0, 0.0, 0.0, -40.0, 0.0]);

        // a T-pose, and from there overhead
        let mut pose = standing();
        turn(&mut pose, LEFT_ARM, Vector3::y(), 90.0);
        turn(&mut pose, RIGHT_ARM, Vector3::y(), -90.0);
        assert_angles(joint_angles(&pose).left, [0.0, 0.0, 0.0, 0.0, f32::NAN, 90.0]);
        assert_angles(joint_angles(&pose).right, [0.0, 0.0, 0.0, 0.0, f32::NAN, 90.0]);
        turn(&mut pose, RIGHT_ARM, Vector3::y(), -89.0);
        let right = joint_angles(&pose).right;
        assert!(close(right.shoulder_flexion_deg, 180.0) && close(right.shoulder_abduction_deg, 1.0), "{right:?}");

        let mut pose = standing();
        pose[13] = pose[11]; // the hand at the shoulder
        assert!(joint_angles(&pose).left.elbow_flexion_deg > 179.9);
    }

    #[test]
    fn what_is_missing_is_nan_and_nothing_else() {
        let mut pose = standing();
        pose[6][1] = f32::NAN; // left ankle
        pose[15] = pose[14]; // no right upper arm
        let angles = joint_angles(&pose);
        assert_angles(angles.left, [f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_angles(angles.right, [0.0, 0.0, 0.0, f32::NAN, f32::NAN, f32::NAN]);
        pose[ROOT] = [f32::INFINITY; 3]; // no trunk
        assert_angles(joint_angles(&pose).left, [f32::NAN, f32::NAN, f32::NAN, 0.0, f32::NAN, f32::NAN]);
        assert!(joint_angles(&[[0.0; 3]; JOINTS]).values_deg().iter().all(|v| v.is_nan()));
    }

    #[test]
    fn names_and_values_go_together() {
        let side = |first: f32| SideAngles {
            knee_flexion_deg: first,
            hip_flexion_deg: first + 1.0,
            hip_abduction_deg: first + 2.0,
            elbow_flexion_deg: first + 3.0,
            shoulder_flexion_deg: first + 4.0,
            shoulder_abduction_deg: first + 5.0,
        };
        let angles = JointAngles { left: side(0.0), right: side(6.0) };
        assert_eq!(angles.values_deg(), std::array::from_fn(|i| i as f32));
        let json = serde_json::to_value(angles).unwrap();
        for (name, value) in NAMES.iter().zip(angles.values_deg()) {
            let (side, angle) = name.split_once('_').unwrap();
            assert_eq!(json[side][angle].as_f64(), Some(f64::from(value)), "{name}");
        }
    }

    proptest! {
        #[test]
        fn place_orientation_and_scale_do_not_matter(
            bends in prop::array::uniform8(-60f32..60.0), axis in prop::array::uniform3(-3f32..3.0),
            shift in prop::array::uniform3(-5000f32..5000.0), scale in 0.01f32..3.0
        ) {
            let mut pose = standing();
            for (limb, by_deg) in [LEFT_LEG, RIGHT_LEG, LEFT_ARM, RIGHT_ARM].into_iter().zip(bends.chunks_exact(2)) {
                turn(&mut pose, limb, Vector3::x(), by_deg[0]);
                bend(&mut pose, limb, Vector3::y(), by_deg[1]);
            }
            let rotation = Rotation3::new(Vector3::from(axis));
            let moved = pose.map(|p| (scale * (rotation * Vector3::from(p)) + Vector3::from(shift)).into());
            for (a, b) in joint_angles(&pose).values_deg().iter().zip(joint_angles(&moved).values_deg()) {
                // a pose of 16 mm far from the origin is rounded to half a micrometre
                let apart = (a - b).abs();
                prop_assert!(apart.min(360.0 - apart) < 0.05 / scale.min(1.0) || (a.is_nan() && b.is_nan()), "{} {}", a, b);
            }
        }
    }
}
