//! Standard Human3.6M.

use std::collections::BTreeMap;

use pose::metrics::{self, Pose};
use pose::{JOINTS, ROOT};
use rayon::prelude::*;
use serde::Serialize;

use super::{Asking, VALUES, ask};
use crate::Error;
use crate::clip_options::{H36M, with_channels};
use crate::motion_bert::{MotionBert, TestTruth, Video};
use crate::split::Clip;

/// Takes whose labels are known to be wrong; every paper leaves them out.
pub const EXCLUDED_TAKES: [&str; 3] = ["s_09_act_05_subact_02", "s_09_act_10_subact_02", "s_09_act_13_subact_01"];

/// Figures of the standard protocol: at the true scale of each frame, means over the frames of each action, then over actions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct H36mReport {
    /// Frames that were measured.
    pub frames: usize,
    /// Frames in the set: the others are in excluded takes or in tails of videos.
    pub frames_in_set: usize,
    /// Clips that were predicted, those of excluded takes among them.
    pub clips: usize,
    /// Clips of excluded takes.
    pub clips_left_out: usize,
    /// MPJPE, "protocol 1", mm.
    pub mpjpe_mm: f64,
    /// P-MPJPE, "protocol 2": after the best similarity of each frame, mm.
    pub p_mpjpe_mm: f64,
    /// After the best scale of each frame, mm. No part of the published protocol.
    pub n_mpjpe_mm: f64,
    /// Velocity error over the steps within clips, mm per frame. No part of the published protocol.
    pub mpjve_mm_per_frame: f64,
    /// Acceleration error over the inner frames of clips, mm per frame squared (of 1/50 s).
    pub acceleration_mm_per_frame2: f64,
    /// The same with the last two frames of each clip counted as 0, as the references do, which print it as "mm/s^2".
    pub acceleration_as_printed_mm_per_frame2: f64,
    /// MPJPE of each joint, mm.
    pub joint_mpjpe_mm: [f64; JOINTS],
    /// Each action, by name.
    pub actions: Vec<ActionFigures>,
}

/// Means over the frames of one action.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActionFigures {
    /// Such as `Walking`.
    pub action: String,
    /// Frames that were measured.
    pub frames: usize,
    /// MPJPE, mm.
    pub mpjpe_mm: f64,
    /// P-MPJPE, mm.
    pub p_mpjpe_mm: f64,
}

/// What is measured of a frame. The step measures have a count of their own: not every frame of a clip has them.
const MEASURES: usize = 4 + JOINTS;
const MPJPE: usize = 0;
const P_MPJPE: usize = 1;
const N_MPJPE: usize = 2;
/// As printed: 0 in the last two frames of a clip.
const ACCELERATION: usize = 3;
const JOINT: usize = 4;

/// Sums of one frame over the clips that it is in.
#[derive(Clone, Copy)]
struct FrameSums {
    sums: [f64; MEASURES],
    times: u32,
    velocity: (f64, u32),
    acceleration: (f64, u32),
}

/// The standard protocol on the test half: clips of `n_frames` side by side (tails of videos left out, short ones resampled), the
/// root of the prediction set to 0 (see [`Asking::root_relative`]), x, y, z in pixels times the frame's true mm per pixel ("oracle scale"), root taken off both,
/// [`EXCLUDED_TAKES`] left out, frames that several clips show averaged, mean per action, unweighted mean over actions.
///
/// `predict` gets (B, T, 17, dim_in) values and B, and returns (B, T, 17, 3): clips in the order of
/// [`MotionBert::split`]`(n_frames, n_frames, 0)`; with `asking.flip` it is asked a second time for each batch, with the mirrored input.
///
/// # Errors
/// The training half, options out of range, no video that is long enough, a predictor that fails or returns another number of values.
pub fn evaluate_h36m<E>(
    set: &MotionBert,
    asking: &Asking,
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<H36mReport, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    asking.validate()?;
    let Some(truth) = set.truth() else {
        return Err(Error::content(set.path(), "'train' has no 2.5d_factor: expected the test half for the standard protocol"));
    };
    let clips = set.split(asking.n_frames, asking.n_frames, 0)?;
    let empty = FrameSums { sums: [0.0; MEASURES], times: 0, velocity: (0.0, 0), acceleration: (0.0, 0) };
    let mut frames = vec![empty; set.frames()];
    let mut clips_left_out = 0;
    for batch in clips.chunks(asking.batch) {
        let input: Vec<f32> = batch.iter().flat_map(|clip| with_channels(set.clip(clip).0, asking.dim_in)).collect();
        let output = ask(asking, &H36M, &input, batch.len(), &mut predict)?;
        let measured: Vec<Option<ClipErrors>> = batch
            .par_iter()
            .zip(output.par_chunks_exact(asking.n_frames * VALUES))
            .map(|(clip, values)| {
                let video = &set.videos()[clip.video];
                (!EXCLUDED_TAKES.contains(&video.take())).then(|| ClipErrors::measure(clip, video, truth, values, asking.root_relative))
            })
            .collect();
        for (clip, errors) in batch.iter().zip(measured) {
            match errors {
                Some(errors) => errors.add_to(&mut frames, clip),
                None => clips_left_out += 1,
            }
        }
    }
    Ok(report(set, &frames, clips.len(), clips_left_out))
}

/// Errors of each frame of one clip.
struct ClipErrors {
    frames: Vec<[f64; MEASURES]>,
    /// One fewer.
    velocity: Vec<f64>,
    /// Two fewer.
    acceleration: Vec<f64>,
}

impl ClipErrors {
    /// `values`: (T, 17, 3), the network's output.
    fn measure(clip: &Clip, video: &Video, truth: &TestTruth, values: &[f32], root_is_zero: bool) -> Self {
        let (poses, _) = values.as_chunks::<VALUES>();
        let mut pred: Vec<Pose<f64>> = Vec::with_capacity(poses.len());
        let mut target: Vec<Pose<f64>> = Vec::with_capacity(poses.len());
        for (frame, values) in clip.frames.iter().zip(poses) {
            pred.push(to_mm(values, video, truth.factor_mm_per_px[frame], root_is_zero));
            target.push(truth.joints_mm[frame]);
        }
        let target = metrics::root_relative(&target);
        let (p, n) = (metrics::p_mpjpe_per_frame(&pred, &target), metrics::n_mpjpe_per_frame(&pred, &target));
        let acceleration = metrics::acceleration_error_per_frame(&pred, &target);
        let frame = |t: usize| {
            let joints = metrics::joint_errors(&pred[t], &target[t]);
            let mut errors = [0.0; MEASURES];
            errors[MPJPE] = joints.iter().sum::<f64>() / JOINTS as f64;
            errors[P_MPJPE] = p[t];
            errors[N_MPJPE] = n[t];
            errors[ACCELERATION] = acceleration.get(t).copied().unwrap_or(0.0);
            errors[JOINT..].copy_from_slice(&joints);
            errors
        };
        Self { frames: (0..pred.len()).map(frame).collect(), velocity: metrics::velocity_error_per_frame(&pred, &target), acceleration }
    }

    /// A clip counts each of its frames once. One that it repeats (a resampled clip does) counts as it was the last time, which is
    /// what the reference's assignment to a list of indices does.
    fn add_to(&self, frames: &mut [FrameSums], clip: &Clip) {
        let indices: Vec<usize> = clip.frames.iter().collect();
        let last_of = |k: usize, count: usize| k + 1 == count || indices[k + 1] != indices[k];
        let steps = self.acceleration.len();
        for (k, errors) in self.frames.iter().enumerate() {
            let frame = &mut frames[indices[k]];
            if last_of(k, indices.len()) {
                (0..MEASURES).filter(|&m| m != ACCELERATION).for_each(|m| frame.sums[m] += errors[m]);
                frame.times += 1;
            }
            if k < steps && last_of(k, steps) {
                frame.sums[ACCELERATION] += errors[ACCELERATION];
                frame.acceleration.0 += errors[ACCELERATION];
                frame.acceleration.1 += 1;
            }
            if k < self.velocity.len() && last_of(k, self.velocity.len()) {
                frame.velocity.0 += self.velocity[k];
                frame.velocity.1 += 1;
            }
        }
    }
}

/// One frame of the network's output, root-relative and in mm. The references' arithmetic, f32 where theirs is, so that the label
/// given as a prediction errs by the same 1.5e-4 mm.
fn to_mm(values: &[f32; VALUES], video: &Video, factor_mm_per_px: f64, root_is_zero: bool) -> Pose<f64> {
    let width = f64::from(video.image.width_px);
    let centre = [1.0, f64::from(video.image.height_px) / width, 0.0];
    let mm: [[f32; 3]; JOINTS] = std::array::from_fn(|j| {
        std::array::from_fn(|c| {
            let value = if j == ROOT && root_is_zero { 0.0 } else { values[3 * j + c] };
            let px = ((f64::from(value) + centre[c]) * width / 2.0) as f32;
            (f64::from(px) * factor_mm_per_px) as f32
        })
    });
    mm.map(|p| std::array::from_fn(|c| f64::from(p[c] - mm[ROOT][c])))
}

/// Sums of one action.
#[derive(Clone, Copy)]
struct ActionSums {
    sums: [f64; MEASURES],
    frames: usize,
    velocity: (f64, usize),
    acceleration: (f64, usize),
}

fn report(set: &MotionBert, frames: &[FrameSums], clips: usize, clips_left_out: usize) -> H36mReport {
    let mut actions: BTreeMap<&str, ActionSums> = BTreeMap::new();
    for video in set.videos() {
        let empty = ActionSums { sums: [0.0; MEASURES], frames: 0, velocity: (0.0, 0), acceleration: (0.0, 0) };
        let action = actions.entry(video.action.as_deref().unwrap_or_default()).or_insert(empty);
        for frame in frames[video.frames.clone()].iter().filter(|frame| frame.times > 0) {
            (0..MEASURES).for_each(|m| action.sums[m] += frame.sums[m] / f64::from(frame.times));
            action.frames += 1;
            for (sum, (value, times)) in [(&mut action.velocity, frame.velocity), (&mut action.acceleration, frame.acceleration)] {
                if times > 0 {
                    sum.0 += value / f64::from(times);
                    sum.1 += 1;
                }
            }
        }
    }
    // an action without a frame has no mean: nothing in it was long enough, or all of it is excluded
    actions.retain(|_, action| action.frames > 0);
    let over_actions = |mean: &dyn Fn(&ActionSums) -> f64| actions.values().map(mean).sum::<f64>() / actions.len() as f64;
    let measure = |m: usize| over_actions(&|action| action.sums[m] / action.frames as f64);
    H36mReport {
        frames: actions.values().map(|action| action.frames).sum(),
        frames_in_set: set.frames(),
        clips,
        clips_left_out,
        mpjpe_mm: measure(MPJPE),
        p_mpjpe_mm: measure(P_MPJPE),
        n_mpjpe_mm: measure(N_MPJPE),
        mpjve_mm_per_frame: over_actions(&|action| action.velocity.0 / action.velocity.1 as f64),
        acceleration_mm_per_frame2: over_actions(&|action| action.acceleration.0 / action.acceleration.1 as f64),
        acceleration_as_printed_mm_per_frame2: measure(ACCELERATION),
        joint_mpjpe_mm: std::array::from_fn(|j| measure(JOINT + j)),
        actions: actions
            .iter()
            .map(|(name, action)| ActionFigures {
                action: (*name).to_owned(),
                frames: action.frames,
                mpjpe_mm: action.sums[MPJPE] / action.frames as f64,
                p_mpjpe_mm: action.sums[P_MPJPE] / action.frames as f64,
            })
            .collect(),
    }
}
