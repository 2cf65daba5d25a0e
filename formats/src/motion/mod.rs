//! Motion in the files of other tools: a clip of 3D poses of one person in world space.
//!
//! | module | file | for | axes, unit | what it holds |
//! |---|---|---|---|---|
//! | [`bvh`] | `.bvh` | Blender, MotionBuilder, Maya | y up, metres or centimetres | joint rotations on a T-pose |
//! | [`gltf`] | `.glb` | any viewer, Blender, game engines | y up, metres | an animated, skinned skeleton |
//! | [`trc`] | `.trc` | OpenSim | y up, millimetres | joint positions |
//! | [`c3d`] | `.c3d` | biomechanics: Visual3D, Mokka, ezc3d | z up, millimetres | joint positions |
//! | [`csv`] | `.csv` | tables | z up, millimetres | joint positions, or joint angles in degrees |
//! | [`angles_plot`] | `.svg` | people | | joint angles over time as a picture |
//! | [`pose2sim`] | `.trc`, `.npy` | Pose2Sim, FreeMoCap | y up, metres; z up, millimetres | joint positions as these programs lay them out |
//! | [`ndjson`] | `.ndjson` | scripts, streams | z up, millimetres | joint positions, one line for each frame |
//!
//! [`humanoid`] gives one pose as the bones of an avatar, for protocols that are no file.
//!
//! World space is right-handed with z up. "y up" is the same space turned about x: `(x, y, z)` becomes `(x, z, -y)`; it is what
//! glTF, BVH and OpenSim expect, and Blender turns it back on import, so that our x, y and z are Blender's.
//!
//! BVH and glTF hold rotations of bones of constant length: their joints are those of [`pose::filter::constant_bone_lengths`],
//! not the poses that came in. The other files hold the poses as they are. BVH and C3D know a frame rate and no times: a clip
//! whose times stray from an even spacing by more than [`UNEVEN_FRAMES`] of a frame is resampled for them, linearly, to the
//! rate of its median step; all others carry the times.
//!
//! ```
//! use formats::motion::{self, MotionClip};
//!
//! let poses_mm = vec![[[0.0, 0.0, 900.0]; pose::JOINTS]; 2]; // from a lifter: world space, z up
//! let clip = MotionClip::new(&poses_mm, &[0.0, 0.04])?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! for name in ["clip.bvh", "clip.glb", "clip.trc", "clip.c3d", "clip.csv", "clip.ndjson"] {
//!     motion::write(&folder.join(name), &clip)?;
//! }
//! motion::csv::write_angles(&folder.join("angles.csv"), &clip)?;
//! # Ok::<(), formats::Error>(())
//! ```

pub mod angles_plot;
pub mod bvh;
pub mod c3d;
pub mod csv;
pub mod gltf;
pub mod humanoid;
pub mod ndjson;
pub mod pose2sim;
mod rig;
pub mod trc;

use crate::{
    aside::write_aside,
    error::{Error, Result, refuse},
};
use pose::{Pose3, resample, skeleton, smooth};
use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter},
    path::Path,
};

/// Coordinates beyond this are refused: no person is a kilometre away.
pub const MAX_COORDINATE_MM: f32 = 1e6;

/// Share of a frame by which times may stray from an even spacing before BVH and C3D resample the clip.
pub const UNEVEN_FRAMES: f64 = 0.1;

/// Frames a second that a clip of one frame is said to have.
const FPS_OF_ONE_FRAME: f64 = 30.0;

/// The 3D poses of one person over time, checked: at least one frame, finite coordinates, rising times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MotionClip<'a> {
    poses_mm: &'a [Pose3],
    times_s: &'a [f64],
}

impl<'a> MotionClip<'a> {
    /// `poses_mm`: the 17 joints of [`pose::skeleton`] in world space (right-handed, z up), millimetres. `times_s`: the time of
    /// each in seconds.
    ///
    /// # Errors
    /// [`Error::Content`]: no frames, another number of times than of poses, times that are not finite or do not rise, a
    /// coordinate that is not finite or beyond [`MAX_COORDINATE_MM`].
    pub fn new(poses_mm: &'a [Pose3], times_s: &'a [f64]) -> std::result::Result<Self, Error> {
        if poses_mm.is_empty() {
            refuse!("the clip has no frames: give at least one");
        }
        if times_s.len() != poses_mm.len() {
            refuse!("expected one time for each of the {} poses, found {}", poses_mm.len(), times_s.len());
        }
        let rises = |pair: &[f64]| pair[0] < pair[1];
        if let Some(frame) = times_s.iter().position(|t| !t.is_finite()) {
            refuse!("frame {frame}: expected a finite time, found {} s", times_s[frame]);
        }
        if let Some(frame) = times_s.windows(2).position(|pair| !rises(pair)) {
            let (before, found) = (times_s[frame], times_s[frame + 1]);
            refuse!("frame {}: expected a time after {before} s, found {found} s; times must rise", frame + 1);
        }
        let sensible = |v: &f32| v.abs() <= MAX_COORDINATE_MM; // NaN is not
        for (frame, pose) in poses_mm.iter().enumerate() {
            if let Some(joint) = pose.iter().position(|p| !p.iter().all(sensible)) {
                let (name, found) = (skeleton::NAMES[joint], pose[joint]);
                refuse!(
                    "frame {frame}, joint {name}: expected finite millimetres within ±{MAX_COORDINATE_MM}, found {found:?}; fill gaps first"
                );
            }
        }
        Ok(Self { poses_mm, times_s })
    }

    /// The poses, millimetres, z up.
    pub fn poses_mm(&self) -> &'a [Pose3] {
        self.poses_mm
    }

    /// Time of each pose in seconds, rising.
    pub fn times_s(&self) -> &'a [f64] {
        self.times_s
    }

    /// Mean frames a second; 30 for a clip of one frame.
    pub fn fps(&self) -> f64 {
        let steps = self.times_s.len() - 1;
        if steps == 0 { FPS_OF_ONE_FRAME } else { steps as f64 / (self.times_s[steps] - self.times_s[0]) }
    }

    /// Poses at a constant rate, and the rate in frames a second: the clip's own where its times are even.
    fn at_constant_rate(&self) -> Result<(Cow<'a, [Pose3]>, f64)> {
        let fps = self.fps();
        let strays = |(i, t): (usize, &f64)| ((t - self.times_s[0]) * fps - i as f64).abs() > UNEVEN_FRAMES;
        if !self.times_s.iter().enumerate().any(strays) {
            return Ok((Cow::Borrowed(self.poses_mm), fps));
        }
        let mut steps_s: Vec<f64> = self.times_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let fps = 1.0 / smooth::median(&mut steps_s);
        let resampled = resample::uniform_times(self.times_s, fps).and_then(|at_s| resample::poses(self.poses_mm, self.times_s, &at_s));
        Ok((Cow::Owned(resampled.map_err(|error| Error::content(error.to_string()))?), fps))
    }
}

/// Writes a clip in the form that the file's extension names: `bvh` (in metres), `glb`, `trc`, `c3d`, `csv` (positions) or
/// `ndjson`. Aside, then renamed.
///
/// # Errors
/// Another extension, and those of the module that writes the form.
pub fn write(path: &Path, clip: &MotionClip<'_>) -> std::result::Result<(), Error> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("bvh") => bvh::write(path, clip, bvh::Unit::Metres),
        Some("glb") => gltf::write_glb(path, clip),
        Some("trc") => trc::write(path, clip),
        Some("c3d") => c3d::write(path, clip),
        Some("csv") => csv::write_positions(path, clip),
        Some("ndjson") => ndjson::write(path, clip),
        other => {
            let found = other.map_or("none".to_owned(), |other| format!("'.{other}'"));
            let error = format!("expected a motion file's extension, .bvh, .glb, .trc, .c3d, .csv or .ndjson, found {found}");
            Err(Error::content(error).in_file(path))
        }
    }
}

/// A point of the world (z up, mm) with y up, in the same unit.
fn y_up<T: Copy + std::ops::Neg<Output = T>>([x, y, z]: [T; 3]) -> [T; 3] {
    [x, z, -y]
}

/// [`write_aside`] for what can fail only by the operating system.
fn write_file(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> std::result::Result<(), Error> {
    write_aside(path, |out| fill(out).map_err(|source| Error::io("write", path, source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSE: Pose3 = [[1.0, 2.0, 3.0]; pose::JOINTS];

    #[test]
    fn bad_clips_are_refused_in_one_sentence() {
        let mut broken = [POSE; 3];
        broken[2][5][1] = f32::NAN;
        let mut far = [POSE; 3];
        far[0][16][2] = -2e6;
        let cases: [(&[Pose3], &[f64], &str); 7] = [
            (&[], &[], "no frames"),
            (&[POSE; 2], &[0.0], "one time for each of the 2 poses, found 1"),
            (&[POSE; 2], &[0.0, f64::NAN], "frame 1: expected a finite time"),
            (&[POSE; 2], &[f64::INFINITY, 1.0], "frame 0: expected a finite time"),
            (&[POSE; 3], &[0.0, 2.0, 2.0], "frame 2: expected a time after 2 s"),
            (&broken, &[0.0, 1.0, 2.0], "frame 2, joint LKnee"),
            (&far, &[0.0, 1.0, 2.0], "frame 0, joint RWrist"),
        ];
        for (poses, times_s, expected) in cases {
            let error = MotionClip::new(poses, times_s).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn uneven_times_are_resampled_and_even_ones_are_not() {
        let poses: Vec<Pose3> = (0..5).map(|i| [[i as f32; 3]; pose::JOINTS]).collect();
        // 25 frames a second, written in whole milliseconds with an error of 1
        let even = [10.0, 10.041, 10.08, 10.119, 10.16];
        let (same, fps) = MotionClip::new(&poses, &even).unwrap().at_constant_rate().unwrap();
        assert!(matches!(same, Cow::Borrowed(_)) && (fps - 25.0).abs() < 1e-6);
        // a dropped frame
        let uneven = [0.0, 0.04, 0.12, 0.16, 0.2];
        let (resampled, fps) = MotionClip::new(&poses, &uneven).unwrap().at_constant_rate().unwrap();
        let x: Vec<f32> = resampled.iter().map(|p| p[0][0]).collect();
        assert!((fps - 25.0).abs() < 1e-6);
        assert!(x.iter().zip([0.0, 1.0, 1.5, 2.0, 3.0, 4.0]).all(|(a, b)| (a - b).abs() < 1e-4) && x.len() == 6, "{x:?}");
        assert_eq!(MotionClip::new(&poses[..1], &[7.0]).unwrap().at_constant_rate().unwrap().1, 30.0);
        // two frames at once, and one three years later
        let absurd = MotionClip::new(&poses[..3], &[0.0, 1e-3, 1e8]).unwrap();
        assert!(absurd.at_constant_rate().is_ok(), "the median of two steps lies between them");
        assert!(MotionClip::new(&poses[..4], &[0.0, 1e-3, 2e-3, 1e8]).unwrap().at_constant_rate().is_err());
    }

    #[test]
    fn the_extension_decides() {
        let folder = tempfile::tempdir().unwrap();
        let poses = [POSE; 2];
        let clip = MotionClip::new(&poses, &[0.0, 0.02]).unwrap();
        for name in ["a.BVH", "a.glb", "a.trc", "a.c3d", "a.csv", "a.ndjson"] {
            write(&folder.path().join(name), &clip).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6, "no partial file is left");
        for name in ["a.fbx", "a"] {
            let error = write(&folder.path().join(name), &clip).unwrap_err().to_string();
            assert!(error.contains(".bvh, .glb"), "{error}");
        }
        assert!(write(&folder.path().join("absent/a.bvh"), &clip).is_err());
    }
}
