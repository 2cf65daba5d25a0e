//! Track Row Column (TRC): OpenSim's marker positions as text.
//!
//! Tab-separated; five header lines, an empty one, then one line for each frame: its number from 1, its time in seconds, and x, y, z of
//! the 17 joints, named as in [`pose::skeleton::NAMES`]. Millimetres, y up (OpenSim's ground): world `(x, y, z)` is `(x, z, -y)`
//! here. Times are the clip's own, even or not; the rates in the header are their mean.

use super::{MotionClip, write_file, y_up};
use crate::error::Error;
use pose::skeleton::NAMES;
use std::{io::Write, path::Path};

/// Writes the clip. Aside, then renamed.
///
/// # Errors
/// Every refusal of the operating system.
pub fn write(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    // a tab or a line break in the name would break the header
    let name = path.file_name().map(|name| name.to_string_lossy().replace(char::is_control, " ")).unwrap_or_default();
    let (frames, fps, joints) = (clip.poses_mm().len(), clip.fps(), NAMES.len());
    write_file(path, |out| {
        writeln!(out, "PathFileType\t4\t(X/Y/Z)\t{name}")?;
        writeln!(out, "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames")?;
        writeln!(out, "{fps:.6}\t{fps:.6}\t{frames}\t{joints}\tmm\t{fps:.6}\t1\t{frames}")?;
        writeln!(out, "Frame#\tTime\t{}", NAMES.join("\t\t\t"))?;
        let columns: Vec<String> = (1..=joints).map(|j| format!("X{j}\tY{j}\tZ{j}")).collect();
        writeln!(out, "\t\t{}\n", columns.join("\t"))?;
        for (i, (pose_mm, time_s)) in clip.poses_mm().iter().zip(clip.times_s()).enumerate() {
            write!(out, "{}\t{time_s:.6}", i + 1)?;
            for v in pose_mm.iter().flat_map(|p| y_up(*p)) {
                write!(out, "\t{v:.4}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    })
}
