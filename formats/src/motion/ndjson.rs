//! Newline-delimited JSON: one object on one line for each frame, so that a reader needs no more than a line at a time.
//!
//! `{"time_s":0.04,"world_mm":[[x,y,z],...]}`: the 17 joints in the order of [`pose::skeleton::NAMES`], world space, z up, millimetres.

use super::{MotionClip, write_file};
use crate::error::Error;
use serde::Serialize;
use std::{io::Write, path::Path};

#[derive(Serialize)]
struct Line<'a> {
    time_s: f64,
    world_mm: &'a pose::Pose3,
}

/// Writes the clip. Aside, then renamed.
///
/// # Errors
/// Every refusal of the operating system.
pub fn write(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    write_file(path, |out| {
        for (world_mm, &time_s) in clip.poses_mm().iter().zip(clip.times_s()) {
            serde_json::to_writer(&mut *out, &Line { time_s, world_mm })?;
            writeln!(out)?;
        }
        Ok(())
    })
}
