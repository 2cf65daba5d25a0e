//! What smaller numbers cost: the same clips lifted by both models.

use std::path::Path;

use pose::{JOINTS, KeypointClip, Pose3, metrics};
use runtime::{EngineOptions, LiftOptions, Lifter};
use serde::Serialize;

use super::Error;

/// How far the poses of two models are apart, root-relative, for people of 1.70 m.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Mean distance of the joints from those in f32. No error against the truth (MPJPE) changes by more than this.
    pub mean_mm: f64,
    /// 19 of 20 joints are nearer than this.
    pub p95_mm: f64,
    /// The mean after the best similarity transform of each frame.
    pub aligned_mm: f64,
    /// Frames that were compared.
    pub frames: usize,
}

/// Lifts `clips` with both files.
///
/// # Errors
/// [`Error::Lift`].
pub fn measure(in_f32: &Path, smaller: &Path, clips: &[KeypointClip], threads: usize) -> Result<Cost, Error> {
    let options = EngineOptions { threads, ..EngineOptions::default() };
    let (a, b) = (Lifter::open(in_f32, &options)?, Lifter::open(smaller, &options)?);
    let (mut exact, mut rounded): (Vec<Pose3>, Vec<Pose3>) = (Vec::new(), Vec::new());
    for clip in clips {
        exact.extend(metrics::root_relative(&a.lift(clip, &LiftOptions::default())?.camera_mm));
        rounded.extend(metrics::root_relative(&b.lift(clip, &LiftOptions::default())?.camera_mm));
    }
    let mut distances: Vec<f64> = rounded.iter().zip(&exact).flat_map(|(a, b)| metrics::joint_errors(a, b)).collect();
    distances.sort_by(f64::total_cmp);
    Ok(Cost {
        mean_mm: metrics::mpjpe_mm(&rounded, &exact),
        p95_mm: distances.get(distances.len() * 19 / 20).copied().unwrap_or_default(),
        aligned_mm: metrics::p_mpjpe_mm(&rounded, &exact),
        frames: distances.len() / JOINTS,
    })
}
