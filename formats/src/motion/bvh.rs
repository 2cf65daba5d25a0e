//! Biovision Hierarchy (BVH): a skeleton and its joint rotations as text.
//!
//! * **Axes**: y up, right-handed: world `(x, y, z)` is `(x, z, -y)` here. These are the defaults of Blender's importer ("Y up, -Z
//!   forward"), in whose scene the poses then stand in our world's axes, z up.
//! * **Unit**: [`Unit::Metres`] is right for Blender, which takes the numbers for metres. [`Unit::Centimetres`] is what
//!   MotionBuilder and Maya expect (in Blender: import with scale 0.01).
//! * **Rest pose**: a T-pose with the clip's median bone lengths that faces +z, the person's left towards +x; in it all rotations
//!   are 0. The root's `OFFSET` is 0: its place is in the channels alone.
//! * **Joints**: the 17 of [`pose::skeleton`] by name and six helpers of length 0 (`RHipJoint`, `LHipJoint`, `LowerBack`, `Neck`,
//!   `LCollar`, `RCollar`), so that each bone has its own rotation and every position is met: the positions computed from the
//!   file are those of the poses at constant bone length. `End Site`s continue the last bone by 5 cm and mean nothing.
//! * **Channels**: position of the root alone; rotations in degrees, `Zrotation Xrotation Yrotation`, that is `R = Rz Rx Ry`, as in
//!   most files. Angles go on beyond ±180 rather than jump from frame to frame.
//! * **Twist**: 17 joints do not show how a bone is turned about itself. Pelvis and rib cage follow hips and shoulders; thigh and
//!   upper arm are turned so that knee and elbow bend about their hinge; the rest swings the
//!   shortest way. So a limb may turn suddenly where it passes through straight: on 11 clips of motion capture at 50 frames a second
//!   92 of 56,406 rotations turn by more than 20 degrees from one frame to the next, quick real motion among them.

use super::{
    MotionClip,
    rig::{self, JOINTS, N_JOINTS, RiggedFrame, RiggedMotion},
    write_file,
};
use crate::error::Error;
use nalgebra::{Rotation3, UnitQuaternion, Vector3};
use std::{
    f64::consts::{PI, TAU},
    io::{self, Write},
    path::Path,
};

/// What one unit of a BVH file's lengths is; the file does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// For Blender.
    #[default]
    Metres,
    /// For MotionBuilder and Maya.
    Centimetres,
}

impl Unit {
    fn per_metre(self) -> f64 {
        match self {
            Self::Metres => 1.0,
            Self::Centimetres => 100.0,
        }
    }
}

/// Length of the bones after the last joints.
const END_SITE_M: f64 = 0.05;

/// Writes the clip. Aside, then renamed.
///
/// # Errors
/// Times so uneven that resampling makes no sense, and every refusal of the operating system.
pub fn write(path: &Path, clip: &MotionClip<'_>, unit: Unit) -> std::result::Result<(), Error> {
    let rig = || {
        let (poses_mm, fps) = clip.at_constant_rate()?;
        Ok((RiggedMotion::new(&poses_mm)?, fps))
    };
    let (motion, fps) = rig().map_err(|error: Error| error.in_file(path))?;
    write_file(path, |out| {
        writeln!(out, "HIERARCHY")?;
        write_joint(out, &motion, 0, 0, unit)?;
        writeln!(out, "MOTION\nFrames: {}\nFrame Time: {:.9}", motion.frames.len(), 1.0 / fps)?;
        let mut angles = [[0.0; 3]; N_JOINTS];
        for frame in &motion.frames {
            write_frame(out, frame, &mut angles, unit)?;
        }
        Ok(())
    })
}

fn write_joint(out: &mut impl Write, motion: &RiggedMotion, joint: usize, depth: usize, unit: Unit) -> io::Result<()> {
    const ROTATIONS: &str = "Zrotation Xrotation Yrotation";
    let indent = "\t".repeat(depth);
    let offset = |offset_m: Vector3<f64>| {
        let v = offset_m * unit.per_metre() + Vector3::zeros(); // no -0
        format!("OFFSET {:.6} {:.6} {:.6}", v.x, v.y, v.z)
    };
    let kind = if joint == 0 { "ROOT" } else { "JOINT" };
    writeln!(out, "{indent}{kind} {}\n{indent}{{\n{indent}\t{}", JOINTS[joint].name, offset(motion.offsets_m[joint]))?;
    match joint {
        0 => writeln!(out, "{indent}\tCHANNELS 6 Xposition Yposition Zposition {ROTATIONS}")?,
        _ => writeln!(out, "{indent}\tCHANNELS 3 {ROTATIONS}")?,
    }
    let mut children = (0..N_JOINTS).filter(|&other| JOINTS[other].parent == Some(joint)).peekable();
    if children.peek().is_none() {
        let end = offset(END_SITE_M * rig::rest_direction(joint));
        writeln!(out, "{indent}\tEnd Site\n{indent}\t{{\n{indent}\t\t{end}\n{indent}\t}}")?;
    }
    for child in children {
        write_joint(out, motion, child, depth + 1, unit)?;
    }
    writeln!(out, "{indent}}}")
}

/// `angles`: those of the frame before, z, x, y of each joint in radians; replaced by this frame's.
fn write_frame(out: &mut impl Write, frame: &RiggedFrame, angles: &mut [[f64; 3]; N_JOINTS], unit: Unit) -> io::Result<()> {
    let root = frame.root_m * unit.per_metre();
    write!(out, "{:.6} {:.6} {:.6}", root.x, root.y, root.z)?;
    for (rotation, angles) in frame.rotations.iter().zip(angles) {
        *angles = euler_zxy(rotation, *angles);
        for angle in angles {
            write!(out, " {:.6}", angle.to_degrees())?;
        }
    }
    writeln!(out)
}

/// Angles (z, x, y) in radians with `R = Rz Rx Ry`: of all that give the rotation, those next to the angles `before`.
fn euler_zxy(rotation: &UnitQuaternion<f64>, before: [f64; 3]) -> [f64; 3] {
    let r = rotation.to_rotation_matrix();
    // the last row of Rz Rx Ry is (-cos x sin y, sin x, cos x cos y), its middle column (-sin z cos x, cos z cos x, sin x)
    let cos_x = r[(0, 1)].hypot(r[(1, 1)]);
    let x = r[(2, 1)].atan2(cos_x);
    let candidates = if cos_x > 1e-7 {
        let (z, y) = ((-r[(0, 1)]).atan2(r[(1, 1)]), (-r[(2, 0)]).atan2(r[(2, 2)]));
        [[z, x, y], [z + PI, PI - x, y + PI]]
    } else {
        // gimbal lock: z and y turn about one axis; y stays and z follows
        let y = before[2];
        let rest = r * Rotation3::from_axis_angle(&Vector3::y_axis(), -y) * Rotation3::from_axis_angle(&Vector3::x_axis(), -x);
        [[rest[(1, 0)].atan2(rest[(0, 0)]), x, y]; 2]
    };
    let nearest = candidates.map(|angles| std::array::from_fn(|k| angles[k] - ((angles[k] - before[k]) / TAU).round() * TAU));
    let distance = |angles: &[f64; 3]| angles.iter().zip(before).map(|(a, b)| (a - b).abs()).sum::<f64>();
    if distance(&nearest[1]) < distance(&nearest[0]) { nearest[1] } else { nearest[0] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_euler([z, x, y]: [f64; 3]) -> UnitQuaternion<f64> {
        let about = |axis, angle| UnitQuaternion::from_axis_angle(&axis, angle);
        about(Vector3::z_axis(), z) * about(Vector3::x_axis(), x) * about(Vector3::y_axis(), y)
    }

    proptest! {
        #[test]
        fn angles_give_the_rotation_back(angles in prop::array::uniform3(-7f64..7.0), before in prop::array::uniform3(-20f64..20.0)) {
            for x in [angles[1], PI / 2.0, -PI / 2.0, PI / 2.0 - 1e-6] {
                let rotation = from_euler([angles[0], x, angles[2]]);
                prop_assert!(from_euler(euler_zxy(&rotation, before)).angle_to(&rotation) < 1e-6);
            }
        }

        #[test]
        fn a_steady_turn_does_not_jump(step in prop::array::uniform3(-0.1f64..0.1)) {
            let mut before = [0.0; 3];
            for i in 0..200 {
                let true_angles = step.map(|s| s * f64::from(i));
                before = euler_zxy(&from_euler(true_angles), before);
                if true_angles[1].abs() > 1.4 {
                    break; // near gimbal lock
                }
                prop_assert!(before.iter().zip(true_angles).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {:?}", before, true_angles);
            }
        }
    }
}
