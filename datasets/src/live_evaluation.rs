//! Figures of lifters in live use: each frame from what was seen by then, and so many frames more.

use pose::causal::{CausalSteps, Step};
use pose::fill::CausalFill;
use pose::metrics;
use pose::normalise::{self, Normalisation};
use pose::{JOINTS, KeypointClip, Keypoints17, Pose3};
use rayon::prelude::*;

use crate::Error;
use crate::evaluation::{EvaluationClip, EvaluationSet, Figures, Report, VALUES, Windowing, at_true_depth, checked, measure, report};

/// How a causal predictor is fed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CausalFeeding {
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// How pixels become input units.
    pub normalisation: Normalisation,
    /// Frame rate of the predictor, which clips are brought to.
    pub fps: f64,
    /// Whether predictions are averaged with those for the mirrored input.
    pub flip: bool,
}

/// Predicts every frame of a set as a stream does, from what came before, and measures it: one report for each look-ahead.
///
/// `predict` gets (T, 17, dim_in) row-major values, the whole of a clip, and T, and returns for each look-ahead k (T, 17, 3): at frame t
/// the pose of frame t - k.
///
/// # Errors
/// A clip without any keypoint, a predictor that fails or returns another number of values.
pub fn evaluate_causal<E>(
    set: &EvaluationSet,
    feeding: &CausalFeeding,
    look_aheads: &[usize],
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<Vec<f32>>, E>,
) -> Result<Vec<Report>, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let predicted_px = predict_causally(set, feeding, look_aheads, &mut predict)?;
    predicted_px.iter().map(|of_look_ahead| measured(set, of_look_ahead)).collect()
}

/// 2.5D in pixels, for each look-ahead and clip at the clip's own times.
fn predict_causally<E>(
    set: &EvaluationSet,
    feeding: &CausalFeeding,
    look_aheads: &[usize],
    predict: &mut impl FnMut(&[f32], usize) -> Result<Vec<Vec<f32>>, E>,
) -> Result<Vec<Vec<Vec<Pose3>>>, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let longest = look_aheads.iter().copied().max().unwrap_or_default();
    let mut predicted_px = vec![Vec::with_capacity(set.clips.len()); look_aheads.len()];
    let mut ask = |input: &[f32], frames: usize| -> Result<Vec<Vec<f32>>, Error> {
        let outputs = predict(input, frames).map_err(|e| Error::Predictor(e.into()))?;
        if outputs.len() != look_aheads.len() {
            let problem = format!("answers for {} look-aheads came back: expected {}", outputs.len(), look_aheads.len());
            return Err(Error::Predictor(problem.into()));
        }
        outputs.into_iter().map(|output| checked(Ok::<_, Error>(output), frames)).collect()
    };
    for clip in &set.clips {
        let fed = Fed::new(&clip.keypoints, feeding, longest)?;
        let (steps, frames) = (fed.steps.len(), fed.steps.len() + longest);
        let mut outputs = ask(&fed.input, frames)?;
        if feeding.flip {
            let mirrored = ask(&normalise::flip_input(&fed.input, feeding.dim_in), frames)?;
            for (output, mirrored) in outputs.iter_mut().zip(&mirrored) {
                output.iter_mut().zip(normalise::flip_output(mirrored)).for_each(|(a, b)| *a = (*a + b) / 2.0);
            }
        }
        for ((all, output), &k) in predicted_px.iter_mut().zip(&outputs).zip(look_aheads) {
            all.push(fed.in_pixels(&output[k * VALUES..(k + steps) * VALUES], &clip.keypoints.times_s)?);
        }
    }
    Ok(predicted_px)
}

fn measured(set: &EvaluationSet, predicted_px: &[Vec<Pose3>]) -> Result<Report, Error> {
    let jobs: Vec<_> = set.clips.iter().zip(predicted_px).collect();
    let measured: Vec<Figures> = jobs.into_par_iter().map(|(clip, poses)| measure(clip, poses)).collect::<Result<_, Error>>()?;
    Ok(report(set, &measured))
}

/// The error by how long a stream has been going on.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SinceStart {
    /// Time since the stream's first frame, from this, seconds.
    pub from_s: f64,
    /// To below this.
    pub to_s: f64,
    /// Frames.
    pub frames: usize,
    /// Root-relative MPJPE in camera space at the true root depth, mm.
    pub mpjpe_root_depth_mm: f64,
}

/// The error of a causal predictor of one look-ahead by time since its stream began: every clip is cut into streams of the length of the last of `ends_s`,
/// and frames are counted by where they lie among them; where there are none there is no entry.
///
/// # Errors
/// As [`evaluate_causal`].
pub fn errors_since_start<E>(
    set: &EvaluationSet,
    feeding: &CausalFeeding,
    look_ahead: usize,
    ends_s: &[f64],
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<Vec<SinceStart>, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(&longest_s) = ends_s.last() else { return Ok(Vec::new()) };
    let streams = EvaluationSet { clips: set.clips.iter().flat_map(|clip| pieces(clip, longest_s)).collect() };
    let mut alone = |input: &[f32], frames: usize| predict(input, frames).map(|output| vec![output]);
    let predicted_px = predict_causally(&streams, feeding, &[look_ahead], &mut alone)?.swap_remove(0);
    let mut sums = vec![(0.0, 0usize); ends_s.len()];
    for (clip, poses) in streams.clips.iter().zip(&predicted_px) {
        let errors_mm = metrics::mpjpe_per_frame(&at_true_depth(clip, poses)?, &metrics::root_relative(&clip.view.camera_mm));
        for (time_s, error_mm) in clip.keypoints.times_s.iter().zip(errors_mm) {
            let at = ends_s.partition_point(|&end_s| end_s <= time_s - clip.keypoints.times_s[0] + 1e-9);
            if let Some((sum, count)) = sums.get_mut(at) {
                *sum += error_mm;
                *count += 1;
            }
        }
    }
    let starts_s = std::iter::once(0.0).chain(ends_s.iter().copied());
    let rows = starts_s.zip(ends_s).zip(sums).filter(|(_, (_, frames))| *frames > 0);
    Ok(rows.map(|((from_s, &to_s), (sum, frames))| SinceStart { from_s, to_s, frames, mpjpe_root_depth_mm: sum / frames as f64 }).collect())
}

/// A clip in streams of `longest_s` seconds; a rest shorter than half of that is left out.
fn pieces(clip: &EvaluationClip, longest_s: f64) -> Vec<EvaluationClip> {
    let times_s = &clip.keypoints.times_s;
    let (mut all, mut start) = (Vec::new(), 0);
    while start < times_s.len() {
        let end = times_s.partition_point(|&time_s| time_s < times_s[start] + longest_s - 1e-9);
        let frames = start..end;
        // a stream begins with somebody
        let seen = clip.keypoints.frames[start].iter().any(|keypoint| !keypoint.is_missing());
        if seen && times_s[end - 1] - times_s[start] >= longest_s / 2.0 {
            let mut piece = clip.clone();
            piece.keypoints.frames = clip.keypoints.frames[frames.clone()].to_vec();
            piece.keypoints.times_s = times_s[frames.clone()].to_vec();
            piece.view.joints_px = clip.view.joints_px[frames.clone()].to_vec();
            piece.view.camera_mm = clip.view.camera_mm[frames].to_vec();
            all.push(piece);
        }
        start = end;
    }
    all
}

/// Predicts every frame of a set by a model of windows in live use, for each look-ahead k by the window that ends k frames after the frame,
/// at the model's rate. Holes are filled from what came before; before the clip its first frame is repeated; past its end the last window
/// answers.
///
/// `predict` is that of [`crate::evaluate`]. One report for each look-ahead.
///
/// # Errors
/// A look-ahead of a window or more; as [`crate::evaluate`].
pub fn evaluate_windows_live<E>(
    set: &EvaluationSet,
    windowing: &Windowing,
    look_aheads: &[usize],
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<Vec<Report>, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let n = windowing.n_frames;
    if let Some(k) = look_aheads.iter().find(|&&k| k >= n) {
        return Err(Error::options(format!("a look-ahead of {k} frames does not fit a window of {n}")));
    }
    let Some(fps) = windowing.fps else { return Err(Error::options("a stream needs the rate of its model")) };
    let mut by_look_ahead = vec![Vec::with_capacity(set.clips.len()); look_aheads.len()];
    for clip in &set.clips {
        let feeding = CausalFeeding { dim_in: windowing.dim_in, normalisation: windowing.normalisation, fps, flip: false };
        let fed = Fed::new(&clip.keypoints, &feeding, 0)?;
        let frames: Vec<Keypoints17> = fed.steps.iter().map(|step| step.keypoints).collect();
        // poses[i][t]: frame t by the window that ends look_aheads[i] frames later
        let mut poses: Vec<Vec<Pose3>> = vec![vec![[[0.0; 3]; JOINTS]; frames.len()]; look_aheads.len()];
        let ends: Vec<usize> = (0..frames.len()).collect();
        for batch in ends.chunks(windowing.batch.max(1)) {
            let (mut input, mut half_sizes_px) = (Vec::new(), Vec::new());
            for &end in batch {
                let window: Vec<Keypoints17> = (0..n).map(|i| frames[(end + i + 1).saturating_sub(n)]).collect();
                let transform = windowing.normalisation.transform(&window, clip.keypoints.image)?;
                input.extend(normalise::network_input(&window, &transform, windowing.dim_in)?);
                half_sizes_px.push(transform.half_size_px);
            }
            let output = checked(predict(&input, batch.len()), batch.len() * n)?;
            for ((&end, half_size_px), window) in batch.iter().zip(half_sizes_px).zip(output.chunks_exact(n * VALUES)) {
                let window = pose::poses_from_values(window)?;
                for (poses, &k) in poses.iter_mut().zip(look_aheads) {
                    let in_pixels = |pose: &Pose3| pose.map(|p| p.map(|value| value * half_size_px));
                    // the last window answers all that are still waiting
                    let first = end.checked_sub(k);
                    let last = if end + 1 == frames.len() { Some(end) } else { first };
                    if let (Some(first), Some(last)) = (first.or(last.map(|_| 0)), last) {
                        (first..=last).for_each(|t| poses[t] = in_pixels(&window[n - 1 - (end - t)]));
                    }
                }
            }
        }
        for (all, poses) in by_look_ahead.iter_mut().zip(poses) {
            all.push(fed.at_own_times(poses, &clip.keypoints.times_s)?);
        }
    }
    by_look_ahead.iter().map(|predicted_px| measured(set, predicted_px)).collect()
}

/// A clip as a causal predictor sees it.
struct Fed {
    steps: Vec<Step>,
    /// (T + k, 17, dim_in): the last frame is repeated for the longest look-ahead k, so that the last poses come out.
    input: Vec<f32>,
}

impl Fed {
    fn new(keypoints: &KeypointClip, feeding: &CausalFeeding, look_ahead: usize) -> Result<Self, Error> {
        let mut fill = CausalFill::default();
        let mut causal = CausalSteps::new(feeding.normalisation, keypoints.image, feeding.fps);
        let mut steps = Vec::with_capacity(keypoints.frames.len());
        for (frame, &time_s) in keypoints.frames.iter().zip(&keypoints.times_s) {
            if let Some(filled) = fill.push(frame) {
                causal.push(time_s, &filled, |step| steps.push(step))?;
            }
        }
        causal.finish(|step| steps.push(step));
        let Some(last) = steps.last() else {
            return Err(pose::Error::NoConfidentKeypoint { frames: keypoints.frames.len() }.into());
        };
        let mut input = Vec::with_capacity((steps.len() + look_ahead) * JOINTS * feeding.dim_in);
        for step in steps.iter().chain(std::iter::repeat_n(last, look_ahead)) {
            input.extend(normalise::network_input(&[step.keypoints], &step.transform, feeding.dim_in)?);
        }
        Ok(Self { steps, input })
    }

    /// Predictions (T, 17, 3), each in the units of its frame, as 2.5D in pixels at the clip's own times.
    fn in_pixels(&self, output: &[f32], times_s: &[f64]) -> Result<Vec<Pose3>, Error> {
        let mut poses = pose::poses_from_values(output)?;
        for (pose, step) in poses.iter_mut().zip(&self.steps) {
            pose.as_flattened_mut().iter_mut().for_each(|value| *value *= step.transform.half_size_px);
        }
        self.at_own_times(poses, times_s)
    }

    /// Poses of the steps at the clip's own times.
    fn at_own_times(&self, poses: Vec<Pose3>, times_s: &[f64]) -> Result<Vec<Pose3>, Error> {
        let step_times_s: Vec<f64> = self.steps.iter().map(|step| step.time_s).collect();
        if step_times_s == times_s {
            return Ok(poses);
        }
        Ok(pose::resample::poses(&poses, &step_times_s, times_s)?)
    }
}
