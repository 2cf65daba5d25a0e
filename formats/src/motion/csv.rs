//! Tables: one row for each frame, numbers with a decimal point, separated by commas, header first.
//!
//! * Positions: `time_s,Hip_x_mm,Hip_y_mm,Hip_z_mm,RHip_x_mm,...` for the 17 joints of [`pose::skeleton::NAMES`], world space, z up.
//! * Angles: `time_s,left_knee_flexion_deg,...`, the columns of [`pose::angle::NAMES`], defined in [`pose::angle`]. An empty cell is an
//!   angle that the pose does not define.

use super::{MotionClip, write_file};
use crate::error::Error;
use pose::{
    angle::{self, joint_angles},
    skeleton,
};
use std::{io::Write, path::Path};

/// Writes the positions of the joints. Aside, then renamed.
///
/// # Errors
/// Every refusal of the operating system.
pub fn write_positions(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    write_file(path, |out| {
        write!(out, "time_s")?;
        for name in skeleton::NAMES {
            write!(out, ",{name}_x_mm,{name}_y_mm,{name}_z_mm")?;
        }
        for (pose_mm, time_s) in clip.poses_mm().iter().zip(clip.times_s()) {
            write!(out, "\n{time_s:.6}")?;
            for v in pose_mm.as_flattened() {
                write!(out, ",{v:.4}")?;
            }
        }
        writeln!(out)
    })
}

/// Writes the joint angles. Aside, then renamed.
///
/// # Errors
/// Every refusal of the operating system.
pub fn write_angles(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    write_file(path, |out| {
        write!(out, "time_s,{}", angle::NAMES.join(","))?;
        for (pose_mm, time_s) in clip.poses_mm().iter().zip(clip.times_s()) {
            write!(out, "\n{time_s:.6}")?;
            for angle_deg in joint_angles(pose_mm).values_deg() {
                match angle_deg.is_nan() {
                    true => write!(out, ",")?,
                    false => write!(out, ",{angle_deg:.3}")?,
                }
            }
        }
        writeln!(out)
    })
}
