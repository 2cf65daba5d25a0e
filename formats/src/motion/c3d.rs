//! C3D (<https://www.c3d.org>): the joints as marker points, in the binary format of biomechanics.
//!
//! Intel byte order, floating-point data, millimetres, **z up** as in our world (`POINT:X_SCREEN` is +X, `POINT:Y_SCREEN` is +Z). The 17 points are
//! named as in [`pose::skeleton::NAMES`]; there are no analog channels. A frame rate stands for the times.
//!
//! C3D counts frames in 16 bits. A longer clip says in its header that it has 65535 frames, and how many it has in
//! `TRIAL:ACTUAL_END_FIELD`, as Vicon's files do.

use super::{MotionClip, write_file};
use crate::error::{Error, Result, refuse};
use pose::{JOINTS, Pose3, skeleton::NAMES};
use std::{io::Write, path::Path};

/// Everything but the data is counted in blocks of this many bytes.
const BLOCK: usize = 512;
/// A float of the header or a parameter that is below 0 says that data are floats. Its size matters for integer data alone.
const SCALE: f32 = -1.0;

/// Writes the clip. Aside, then renamed.
///
/// # Errors
/// More than 2^32 frames, times so uneven that resampling makes no sense, and every refusal of the operating system.
pub fn write(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    let head = || {
        let (poses_mm, fps) = clip.at_constant_rate()?;
        let head = head(poses_mm.len(), fps as f32)?;
        Ok((head, poses_mm))
    };
    let (head, poses_mm) = head().map_err(|error: Error| error.in_file(path))?;
    write_file(path, |out| {
        out.write_all(&head)?;
        poses_mm.iter().try_for_each(|pose_mm| out.write_all(&frame(pose_mm)))
    })
}

/// The points of one frame: x, y, z, and a word of cameras and residual, 0 = a point that was computed rather than seen.
fn frame(pose_mm: &Pose3) -> Vec<u8> {
    pose_mm.iter().flat_map(|&[x, y, z]| [x, y, z, 0.0]).flat_map(f32::to_le_bytes).collect()
}

/// Header and parameters.
fn head(frames: usize, fps: f32) -> Result<Vec<u8>> {
    let Ok(all_frames) = u32::try_from(frames) else { refuse!("expected at most {} frames for C3D, found {frames}", u32::MAX) };
    let counted_frames = u16::try_from(frames).unwrap_or(u16::MAX);
    // where the data start depends on the parameters' size, and a parameter says it; its value does not change the size
    let blocks = parameters(counted_frames, all_frames, fps, 0).len() / BLOCK;
    let data_start = (2 + blocks) as u16;
    let parameters = parameters(counted_frames, all_frames, fps, data_start);

    let mut header = vec![0; BLOCK];
    let mut put = |word: usize, bytes: &[u8]| header[2 * (word - 1)..][..bytes.len()].copy_from_slice(bytes);
    put(1, &[2, 0x50]); // the parameters start in block 2; the mark of a C3D file
    put(2, &(JOINTS as u16).to_le_bytes());
    put(3, &0u16.to_le_bytes()); // analog values for each frame
    put(4, &1u16.to_le_bytes()); // the first frame
    put(5, &counted_frames.to_le_bytes()); // the last one
    put(6, &0u16.to_le_bytes()); // longest gap that was interpolated
    put(7, &SCALE.to_le_bytes());
    put(9, &data_start.to_le_bytes());
    put(10, &0u16.to_le_bytes()); // analog samples for each frame
    put(11, &fps.to_le_bytes());
    Ok([header, parameters].concat())
}

/// The parameter section, in whole blocks.
fn parameters(counted_frames: u16, all_frames: u32, fps: f32, data_start: u16) -> Vec<u8> {
    let mut section = Section(Vec::new());
    section.group(1, "POINT", |point| {
        point.integers("USED", &[JOINTS as u16]);
        point.float("SCALE", SCALE);
        point.float("RATE", fps);
        point.integers("DATA_START", &[data_start]);
        point.integers("FRAMES", &[counted_frames]);
        point.texts("LABELS", &NAMES);
        point.texts("DESCRIPTIONS", &NAMES);
        point.text("UNITS", "mm");
        point.text("X_SCREEN", "+X");
        point.text("Y_SCREEN", "+Z");
    });
    section.group(2, "ANALOG", |analog| {
        analog.integers("USED", &[0]);
        analog.float("GEN_SCALE", 1.0);
        analog.float("RATE", 0.0); // as the header: no samples for each frame
    });
    section.group(3, "TRIAL", |trial| {
        let words = |n: u32| [n as u16, (n >> 16) as u16]; // low word first
        trial.integers("ACTUAL_START_FIELD", &words(1));
        trial.integers("ACTUAL_END_FIELD", &words(all_frames));
    });
    section.group(4, "MANUFACTURER", |manufacturer| manufacturer.text("SOFTWARE", "poselift"));

    let blocks = (4 + section.0.len() + 2).div_ceil(BLOCK); // two bytes of 0 end the list
    let mut bytes = vec![1, 0x50, blocks as u8, 84]; // 84: Intel
    bytes.extend(section.0);
    bytes.resize(blocks * BLOCK, 0);
    bytes
}

/// Records of groups and parameters, one after the other.
struct Section(Vec<u8>);

impl Section {
    fn group(&mut self, id: i8, name: &str, fill: impl FnOnce(&mut Group<'_>)) {
        self.record(-id, name, &[]);
        fill(&mut Group { section: self, id });
    }

    /// `id` is below 0 for a group, and the group's for a parameter.
    fn record(&mut self, id: i8, name: &str, content: &[u8]) {
        self.0.extend([name.len() as u8, id as u8]);
        self.0.extend(name.bytes());
        let to_next = 2 + content.len() + 1; // counted from itself
        self.0.extend((to_next as u16).to_le_bytes());
        self.0.extend(content);
        self.0.push(0); // no description
    }
}

struct Group<'s> {
    section: &'s mut Section,
    id: i8,
}

impl Group<'_> {
    fn parameter(&mut self, name: &str, kind: i8, dimensions: &[u8], data: impl IntoIterator<Item = u8>) {
        let mut content = vec![kind as u8, dimensions.len() as u8];
        content.extend(dimensions);
        content.extend(data);
        self.section.record(self.id, name, &content);
    }

    fn integers(&mut self, name: &str, values: &[u16]) {
        let dimensions: &[u8] = if values.len() == 1 { &[] } else { &[values.len() as u8] };
        self.parameter(name, 2, dimensions, values.iter().flat_map(|v| v.to_le_bytes()));
    }

    fn float(&mut self, name: &str, value: f32) {
        self.parameter(name, 4, &[], value.to_le_bytes());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.parameter(name, -1, &[text.len() as u8], text.bytes());
    }

    /// All padded with spaces to the longest.
    fn texts(&mut self, name: &str, texts: &[&str]) {
        let width = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let padded = texts.iter().flat_map(|text| format!("{text:width$}").into_bytes());
        self.parameter(name, -1, &[width as u8, texts.len() as u8], padded.collect::<Vec<_>>());
    }
}
