//! Figures on motion capture: every frame, seen by fixed cameras, with and without a detector's noise, the same for every predictor.
//!
//! A predictor is a function from network inputs to network outputs. A lifter, the mean pose and a linear regression all go through the same
//! windows, the same merging and the same placement in camera space.

use pose::metrics;
use pose::normalise::{self, ImageTransform, Normalisation};
use pose::window::{Merger, Window, plan};
use pose::world::{self, Scale};
use pose::{JOINTS, KeypointClip, Pose3};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::camera::{CameraKind, View};
use crate::mocap::MocapSet;
use crate::noise::{NoiseRecipe, exact_keypoints};
use crate::random::{Stream, generator};

/// Values of a pose.
pub(crate) const VALUES: usize = JOINTS * 3;

/// What is evaluated on.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationOptions {
    /// Each clip is seen by one camera of each of these kinds.
    pub cameras: Vec<CameraKind>,
    /// Whether there are clips with noise, without it, or both.
    pub noisy: Vec<bool>,
    /// The noise.
    pub noise: NoiseRecipe,
    /// What cameras and noise follow from; published figures have 0.
    pub seed: u64,
}

impl Default for EvaluationOptions {
    /// The published figures: both cameras, noise off and on, seed 0.
    fn default() -> Self {
        Self { cameras: CameraKind::ALL.to_vec(), noisy: vec![false, true], noise: NoiseRecipe::default(), seed: 0 }
    }
}

/// One motion capture clip seen by one camera, all its frames.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationClip {
    /// Name of the motion capture clip.
    pub name: String,
    /// Who moves.
    pub subject: String,
    /// Kind of the camera; `None` for a real one.
    pub camera: Option<CameraKind>,
    /// Whether the keypoints have a detector's noise.
    pub noisy: bool,
    /// What a lifter gets. Missing keypoints are not filled in.
    pub keypoints: KeypointClip,
    /// The truth: camera, pixels, camera-space joints.
    pub view: View,
}

/// The clips of one set under every condition.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationSet {
    /// Clip by clip; each under all conditions.
    pub clips: Vec<EvaluationClip>,
}

impl EvaluationSet {
    /// Draws a camera of each kind for each clip, and noise where it is wanted. The camera of a clip is the same with and without noise.
    ///
    /// # Errors
    /// No camera or no condition, a noise recipe out of range, a clip that no camera sees.
    pub fn new(set: &MocapSet, options: &EvaluationOptions) -> Result<Self, Error> {
        if options.cameras.is_empty() || options.noisy.is_empty() {
            return Err(Error::options("an evaluation needs at least one kind of camera, and noise on, off or both"));
        }
        options.noise.validate()?;
        let seen: Result<Vec<_>, Error> = (0..set.clips().len()).into_par_iter().map(|clip| see_clip(set, clip, options)).collect();
        Ok(Self { clips: seen?.into_iter().flatten().collect() })
    }

    /// Frames of all clips under all conditions.
    pub fn frames(&self) -> usize {
        self.clips.iter().map(|clip| clip.keypoints.frames.len()).sum()
    }
}

/// One clip under all conditions.
fn see_clip(set: &MocapSet, clip: usize, options: &EvaluationOptions) -> Result<Vec<EvaluationClip>, Error> {
    let described = &set.clips()[clip];
    let mut seen = Vec::with_capacity(options.cameras.len() * options.noisy.len());
    for &camera in &options.cameras {
        // Camera and noise have streams of their own, and each kind of camera has: one condition left out changes no other.
        let stream = |of: u64| generator(options.seed, Stream::Evaluation, 2 * camera as u64 + of, clip as u64);
        let view = camera.draw(set.poses(clip), false, &mut stream(0))?;
        for &noisy in &options.noisy {
            let frames = if noisy {
                options.noise.apply(&view.joints_px, &view.torso_px(), view.image, set.fps() as f32, &mut stream(1))
            } else {
                exact_keypoints(&view.joints_px)
            };
            let keypoints = KeypointClip::from_fps(frames, set.fps(), view.image)?;
            let (name, subject) = (described.name.clone(), described.subject.clone());
            seen.push(EvaluationClip { name, subject, camera: Some(camera), noisy, keypoints, view: view.clone() });
        }
    }
    Ok(seen)
}

/// How clips are cut into a predictor's inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Windowing {
    /// Frames of a window.
    pub n_frames: usize,
    /// Frames that neighbouring windows share.
    pub overlap: usize,
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// How pixels become input units.
    pub normalisation: Normalisation,
    /// Frame rate that clips are resampled to; `None` leaves them at their own.
    pub fps: Option<f64>,
    /// Largest number of windows that the predictor gets at once.
    pub batch: usize,
    /// Whether predictions are averaged with those for the mirrored input.
    pub flip: bool,
}

impl Windowing {
    /// Windows of `n_frames`, a third of it shared, x, y and confidence in the person's box, no flip averaging.
    pub fn new(n_frames: usize) -> Self {
        Self { n_frames, overlap: n_frames / 3, dim_in: 3, normalisation: Normalisation::PersonBox, fps: None, batch: 32, flip: false }
    }
}

/// Mean errors over frames. Name the kind with the number: errors at the true depth, after alignment and at an assumed height differ much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Frames.
    pub frames: usize,
    /// Root-relative MPJPE in camera space at the true root depth and pixel ("oracle scale"), mm.
    pub mpjpe_root_depth_mm: f64,
    /// The same after the best scale of each frame, mm.
    pub n_mpjpe_mm: f64,
    /// The same after the best similarity of each frame, mm.
    pub p_mpjpe_mm: f64,
    /// Root-relative MPJPE with the depth that follows from the default height, at the true root pixel, mm.
    pub mpjpe_default_height_mm: f64,
    /// Error of the root-relative motion from frame to frame at the true root depth, mm per frame.
    pub mpjve_mm: f64,
}

/// The figures under one condition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConditionFigures {
    /// Kind of camera; `None` for real ones.
    pub camera: Option<CameraKind>,
    /// Whether the keypoints had a detector's noise.
    pub noisy: bool,
    /// Mean errors over all frames of all clips under this condition.
    #[serde(flatten)]
    pub figures: Figures,
}

/// All conditions of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Each condition that the set has, cameras outermost.
    pub conditions: Vec<ConditionFigures>,
}

impl Report {
    /// Mean over the frames of the conditions with, or without, noise; `None` when there are none.
    pub fn mean(&self, noisy: bool) -> Option<Figures> {
        let chosen: Vec<_> = self.conditions.iter().filter(|c| c.noisy == noisy).map(|c| c.figures).collect();
        (!chosen.is_empty()).then(|| Figures::mean(&chosen))
    }

    /// For each figure the smaller of two reports over the same set: the stronger form of a baseline.
    pub fn least(&self, other: &Self) -> Self {
        let conditions = self.conditions.iter().zip(&other.conditions);
        Self { conditions: conditions.map(|(a, b)| ConditionFigures { figures: a.figures.least(&b.figures), ..*a }).collect() }
    }
}

impl Figures {
    /// The mean over frames of all parts.
    fn mean(parts: &[Self]) -> Self {
        let frames = parts.iter().map(|part| part.frames).sum();
        let mean = |figure: fn(&Self) -> f64| parts.iter().map(|part| part.frames as f64 * figure(part)).sum::<f64>() / frames as f64;
        Self {
            frames,
            mpjpe_root_depth_mm: mean(|f| f.mpjpe_root_depth_mm),
            n_mpjpe_mm: mean(|f| f.n_mpjpe_mm),
            p_mpjpe_mm: mean(|f| f.p_mpjpe_mm),
            mpjpe_default_height_mm: mean(|f| f.mpjpe_default_height_mm),
            mpjve_mm: mean(|f| f.mpjve_mm),
        }
    }

    fn least(&self, other: &Self) -> Self {
        Self {
            frames: self.frames,
            mpjpe_root_depth_mm: self.mpjpe_root_depth_mm.min(other.mpjpe_root_depth_mm),
            n_mpjpe_mm: self.n_mpjpe_mm.min(other.n_mpjpe_mm),
            p_mpjpe_mm: self.p_mpjpe_mm.min(other.p_mpjpe_mm),
            mpjpe_default_height_mm: self.mpjpe_default_height_mm.min(other.mpjpe_default_height_mm),
            mpjve_mm: self.mpjve_mm.min(other.mpjve_mm),
        }
    }
}

/// Predicts every frame of a set and measures it.
///
/// `predict` gets (B, T, 17, dim_in) row-major values and B, at most `windowing.batch`, and returns (B, T, 17, 3).
///
/// # Errors
/// Windows that cannot be made, a clip without any keypoint, a predictor that fails or returns another number of values.
pub fn evaluate<E>(
    set: &EvaluationSet,
    windowing: &Windowing,
    mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
) -> Result<Report, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let prepared: Vec<Prepared> = set.clips.par_iter().map(|clip| Prepared::new(clip, windowing)).collect::<Result<_, _>>()?;
    let windows: Vec<(usize, Window)> =
        prepared.iter().enumerate().flat_map(|(clip, prepared)| prepared.windows.iter().map(move |&window| (clip, window))).collect();
    let mut mergers: Vec<Merger> = prepared.iter().map(|p| Merger::new(p.keypoints.frames.len(), VALUES)).collect();
    for batch in windows.chunks(windowing.batch.max(1)) {
        let mut input = Vec::with_capacity(batch.len() * windowing.n_frames * JOINTS * windowing.dim_in);
        let mut half_sizes_px = Vec::with_capacity(batch.len());
        for (clip, window) in batch {
            let frames = window.gather(&prepared[*clip].keypoints.frames);
            let transform = windowing.normalisation.transform(&frames, prepared[*clip].keypoints.image)?;
            input.extend(normalise::network_input(&frames, &transform, windowing.dim_in)?);
            half_sizes_px.push(transform.half_size_px);
        }
        let mut output = checked(predict(&input, batch.len()), batch.len() * windowing.n_frames)?;
        if windowing.flip {
            let mirrored =
                checked(predict(&normalise::flip_input(&input, windowing.dim_in), batch.len()), batch.len() * windowing.n_frames)?;
            output.iter_mut().zip(normalise::flip_output(&mirrored)).for_each(|(a, b)| *a = (*a + b) / 2.0);
        }
        for (((clip, window), half_size_px), values) in
            batch.iter().zip(half_sizes_px).zip(output.chunks_exact_mut(windowing.n_frames * VALUES))
        {
            values.iter_mut().for_each(|value| *value *= half_size_px); // each window has units of its own: merge pixels
            mergers[*clip].add(window, values)?;
        }
    }
    let jobs: Vec<_> = set.clips.iter().zip(&prepared).zip(mergers).collect();
    let measured: Vec<Figures> = jobs
        .into_par_iter()
        .map(|((clip, prepared), merger)| measure(clip, &prepared.to_own_times(merger, &clip.keypoints.times_s)?))
        .collect::<Result<_, Error>>()?;
    Ok(report(set, &measured))
}

/// The predictor's values, if they are as many as `frames` poses have.
pub(crate) fn checked<E>(output: Result<Vec<f32>, E>, frames: usize) -> Result<Vec<f32>, Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let output = output.map_err(|e| Error::Predictor(e.into()))?;
    if output.len() != frames * VALUES {
        let problem = format!("{} values came back for {frames} frames: expected {}", output.len(), frames * VALUES);
        return Err(Error::Predictor(problem.into()));
    }
    Ok(output)
}

/// A clip as the predictor sees it: at its rate, without gaps, in windows.
struct Prepared {
    keypoints: KeypointClip,
    windows: Vec<Window>,
}

impl Prepared {
    fn new(clip: &EvaluationClip, windowing: &Windowing) -> Result<Self, Error> {
        let mut keypoints = clip.keypoints.clone();
        pose::fill::fill_missing(&mut keypoints.frames, &keypoints.times_s)?;
        if let Some(fps) = windowing.fps {
            keypoints = pose::resample::clip(&keypoints, fps)?;
        }
        let windows = plan(keypoints.frames.len(), windowing.n_frames, windowing.overlap)?;
        Ok(Self { keypoints, windows })
    }

    /// Merged predictions, 2.5D in pixels, at the times of the clip.
    fn to_own_times(&self, merger: Merger, times_s: &[f64]) -> Result<Vec<Pose3>, Error> {
        let poses = pose::poses_from_values(&merger.finish()?)?;
        if times_s == self.keypoints.times_s {
            return Ok(poses);
        }
        Ok(pose::resample::poses(&poses, &self.keypoints.times_s, times_s)?)
    }
}

/// Errors of one clip's 2.5D, which is in pixels.
pub(crate) fn measure(clip: &EvaluationClip, pose25_px: &[Pose3]) -> Result<Figures, Error> {
    let view = &clip.view;
    let target_mm = metrics::root_relative(&view.camera_mm);
    let at_depth_mm = at_true_depth(clip, pose25_px)?;
    let at_height_mm = match placed(clip, pose25_px, &Scale::DefaultHeight) {
        // A model early in its training, or one that fails, may put all joints on the root: that is its answer, and its error is counted.
        Err(Error::Pose(pose::Error::NoSize)) => vec![[[0.0; 3]; JOINTS]; pose25_px.len()],
        placed => placed?,
    };
    Ok(Figures {
        frames: target_mm.len(),
        mpjpe_root_depth_mm: metrics::mpjpe_mm(&at_depth_mm, &target_mm),
        n_mpjpe_mm: metrics::n_mpjpe_mm(&at_depth_mm, &target_mm),
        p_mpjpe_mm: metrics::p_mpjpe_mm(&at_depth_mm, &target_mm),
        mpjpe_default_height_mm: metrics::mpjpe_mm(&at_height_mm, &target_mm),
        mpjve_mm: metrics::velocity_error(&at_depth_mm, &target_mm),
    })
}

/// Root-relative poses in camera space at the true root depth, mm.
pub(crate) fn at_true_depth(clip: &EvaluationClip, pose25_px: &[Pose3]) -> Result<Vec<Pose3>, Error> {
    placed(clip, pose25_px, &Scale::RootDepth { depth_mm: clip.view.root_depth_mm() })
}

fn placed(clip: &EvaluationClip, pose25_px: &[Pose3], scale: &Scale) -> Result<Vec<Pose3>, Error> {
    let view = &clip.view;
    let in_pixels = vec![ImageTransform { centre_px: [0.0; 2], half_size_px: 1.0 }; pose25_px.len()];
    let placed = world::place_clip(pose25_px, &in_pixels, &view.root_px(), &clip.keypoints.times_s, &view.intrinsics, scale)?;
    Ok(metrics::root_relative(&placed.camera_mm))
}

pub(crate) fn report(set: &EvaluationSet, measured: &[Figures]) -> Report {
    let mut conditions: Vec<ConditionFigures> = Vec::new();
    for camera in CameraKind::ALL.map(Some).into_iter().chain([None]) {
        for noisy in [false, true] {
            let of_condition = |(clip, _): &(&EvaluationClip, &Figures)| clip.camera == camera && clip.noisy == noisy;
            let parts: Vec<Figures> = set.clips.iter().zip(measured).filter(of_condition).map(|(_, figures)| *figures).collect();
            if !parts.is_empty() {
                conditions.push(ConditionFigures { camera, noisy, figures: Figures::mean(&parts) });
            }
        }
    }
    Report { conditions }
}
