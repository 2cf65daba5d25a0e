//! Training clips out of motion capture: another body, another frame rate, another camera, a detector's noise, each time anew.

use std::sync::Arc;

use pose::causal::CausalBox;
use pose::fill::CausalFill;
use pose::normalise::{self, ImageTransform, Normalisation};
use pose::{JOINTS, Keypoint, Keypoints17, Pose3, ROOT};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::camera::{CameraKind, View};
use crate::mocap::MocapSet;
use crate::motion::{Augmentation, resample};
use crate::noise::{NoiseRecipe, exact_keypoints};
use crate::random::{Stream, generator, uniform, uniform_count};
use crate::sample::{Sample, SampleSource, Truth};

/// How [`ClipSampler`] makes its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Frames of a sample, T.
    pub n_frames: usize,
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// How pixels become input units.
    pub normalisation: Normalisation,
    /// Kinds of cameras, each as likely as the others.
    pub cameras: Vec<CameraKind>,
    /// Detector noise; `None` gives true joints of confidence 1.
    pub noise: Option<NoiseRecipe>,
    /// Variation of the recorded people.
    pub augmentation: Augmentation,
    /// An epoch has one sample per so many recorded frames; `None` is a third of `n_frames`, as the references have it.
    pub stride: Option<usize>,
    /// For a causal model: holes are filled and boxes made as in a stream, and the person is not seen for a while now and then. `None` is
    /// for models of windows.
    pub causal: Option<Gaps>,
    /// Everything drawn follows from it.
    pub seed: u64,
}

/// Times in which a detector sees nobody.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gaps {
    /// Probability per frame that such a time begins.
    pub rate: f32,
    /// For how many frames, uniform.
    pub frames: [u32; 2],
}

impl Default for Gaps {
    /// One in six seconds at 30 frames a second, up to the half second that a stream holds by default.
    fn default() -> Self {
        Self { rate: 0.005, frames: [1, 15] }
    }
}

impl Gaps {
    fn validate(&self) -> Result<(), Error> {
        if !(0.0..=0.5).contains(&self.rate) {
            return Err(Error::options(format!("gaps.rate is {}: expected a probability from 0 to 0.5", self.rate)));
        }
        let [low, high] = self.frames;
        if low < 1 || high < low {
            return Err(Error::options(format!("gaps.frames is [{low}, {high}]: expected a rising range that starts at 1 frame or more")));
        }
        Ok(())
    }

    /// Takes everybody away for a while, never in the first frame.
    fn apply(&self, keypoints: &mut [Keypoints17], rng: &mut impl Rng) {
        let mut t = 1;
        while t < keypoints.len() {
            if rng.random::<f32>() < self.rate {
                let length = uniform_count(rng, self.frames) as usize;
                let end = (t + length).min(keypoints.len());
                keypoints[t..end].fill([Keypoint::MISSING; JOINTS]);
                t = end;
            }
            t += 1;
        }
    }
}

impl SamplerOptions {
    /// The recipe of our own models: both cameras, noise, every variation, x, y and confidence in the person's box.
    pub fn new(n_frames: usize, seed: u64) -> Self {
        Self {
            n_frames,
            dim_in: 3,
            normalisation: Normalisation::PersonBox,
            cameras: CameraKind::ALL.to_vec(),
            noise: Some(NoiseRecipe::default()),
            augmentation: Augmentation::default(),
            stride: None,
            causal: None,
            seed,
        }
    }

    fn validate(&self) -> Result<(), Error> {
        if !(1..=1 << 16).contains(&self.n_frames) {
            return Err(Error::options(format!("n_frames is {}: expected 1 to 65536", self.n_frames)));
        }
        if !matches!(self.dim_in, 2 | 3) {
            return Err(Error::options(format!("dim_in is {}: expected 2 (x, y) or 3 (x, y, confidence)", self.dim_in)));
        }
        if self.cameras.is_empty() {
            return Err(Error::options("no kind of camera is given: name h36m_like, phone_like or both"));
        }
        if self.stride == Some(0) {
            return Err(Error::options("stride is 0: expected at least 1 frame"));
        }
        if let Some(noise) = &self.noise {
            noise.validate()?;
        }
        if let Some(gaps) = &self.causal {
            gaps.validate()?;
        }
        self.augmentation.validate()
    }
}

/// Samples of [`MocapSet`] clips seen by random cameras. See [`SampleSource`] for what is deterministic: everything.
#[derive(Clone, Debug)]
pub struct ClipSampler {
    set: Arc<MocapSet>,
    options: SamplerOptions,
    stretches: Vec<Stretch>,
}

/// The part of a clip that the middle of a sample is drawn from.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    clip: usize,
    start: usize,
    frames: usize,
}

impl ClipSampler {
    /// # Errors
    /// Options out of range.
    pub fn new(set: Arc<MocapSet>, options: SamplerOptions) -> Result<Self, Error> {
        options.validate()?;
        let stride = options.stride.unwrap_or(options.n_frames / 3).max(1);
        let varied = &options.augmentation;
        let mut stretches = Vec::with_capacity(set.frames() / stride + set.clips().len());
        for clip in 0..set.clips().len() {
            for (i, poses) in set.poses(clip).chunks(stride).enumerate() {
                let low = poses.iter().any(|pose| pose[ROOT][2] < varied.low_hip_mm);
                let times = if low { varied.low_pose_repeat } else { 1 };
                stretches.extend((0..times).map(|_| Stretch { clip, start: i * stride, frames: poses.len() }));
            }
        }
        Ok(Self { set, options, stretches })
    }

    /// How it makes its samples.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// World poses of a sample, before any variation, and their frame rate.
    fn motion(&self, stretch: Stretch, rng: &mut impl Rng) -> (Vec<Pose3>, f32) {
        let source = self.set.poses(stretch.clip);
        let steps = (self.options.n_frames - 1) as f64;
        let last = (source.len() - 1) as f64;
        let [low, high] = self.options.augmentation.fps.range();
        // A clip too short for a slow rate is sampled faster, as far as the range goes.
        let needed = (steps * self.set.fps() / last) as f32;
        let fps = uniform(rng, [low.max(needed.min(high)), high]);
        let span = steps * self.set.fps() / f64::from(fps); // source frames
        let middle = stretch.start as f64 + f64::from(rng.random::<f32>()) * stretch.frames as f64;
        let start = if span > last { (last - span) / 2.0 } else { (middle - span / 2.0).clamp(0.0, last - span) };
        (resample(source, self.set.fps(), start, f64::from(fps), self.options.n_frames), fps)
    }
}

impl SampleSource for ClipSampler {
    fn len(&self) -> usize {
        self.stretches.len()
    }

    fn frames(&self) -> usize {
        self.options.n_frames
    }

    fn dim_in(&self) -> usize {
        self.options.dim_in
    }

    fn seed(&self) -> u64 {
        self.options.seed
    }

    fn sample(&self, epoch: u64, index: usize) -> Result<Sample, Error> {
        let options = &self.options;
        let mut rng = generator(options.seed, Stream::Sample, epoch, index as u64);
        let (mut world_mm, fps) = self.motion(self.stretches[index], &mut rng);
        options.augmentation.vary(&mut world_mm, &mut rng);
        let kind = options.cameras[rng.random_range(0..options.cameras.len() as u32) as usize];
        let may_cut_off = rng.random::<f32>() < options.augmentation.truncated;
        let view = kind.draw(&world_mm, may_cut_off, &mut rng)?;
        let seen = detect(&view, options.noise.as_ref(), fps, &mut rng);
        let times_s: Vec<f64> = (0..seen.len()).map(|t| t as f64 / f64::from(fps)).collect();
        let (keypoints, transforms) = match &options.causal {
            None => fed_whole(seen, &times_s, &view, options.normalisation)?,
            Some(gaps) => fed_causally(seen, &times_s, &view, options.normalisation, gaps, &mut rng)?,
        };
        let mut input = Vec::with_capacity(keypoints.len() * JOINTS * options.dim_in);
        let mut label: Vec<Pose3> = Vec::with_capacity(keypoints.len());
        for (t, (frame, transform)) in keypoints.iter().zip(&transforms).enumerate() {
            input.extend(normalise::network_input(&[*frame], transform, options.dim_in)?);
            label.push(view.pose25(t, transform)?);
        }
        Ok(Sample { input, label: pose::values_from_poses(&label), truth: Some(Truth { transforms, view, fps }) })
    }
}

/// Keypoints and how they become input, frame by frame.
pub(crate) type Fed = (Vec<Keypoints17>, Vec<ImageTransform>);

/// As a lifter of windows is fed: holes filled from both sides, one box.
pub(crate) fn fed_whole(mut keypoints: Vec<Keypoints17>, times_s: &[f64], view: &View, normalisation: Normalisation) -> Result<Fed, Error> {
    pose::fill::fill_missing(&mut keypoints, times_s)?;
    let transform = normalisation.transform(&keypoints, view.image)?;
    let transforms = vec![transform; keypoints.len()];
    Ok((keypoints, transforms))
}

/// As a stream is fed.
pub(crate) fn fed_causally(
    mut keypoints: Vec<Keypoints17>,
    times_s: &[f64],
    view: &View,
    normalisation: Normalisation,
    gaps: &Gaps,
    rng: &mut impl Rng,
) -> Result<Fed, Error> {
    gaps.apply(&mut keypoints, rng);
    let (mut fill, mut boxes) = (CausalFill::default(), CausalBox::default());
    let mut transforms = Vec::with_capacity(keypoints.len());
    for ((frame, &time_s), exact) in keypoints.iter_mut().zip(times_s).zip(exact_keypoints(&view.joints_px)) {
        // before anybody is seen a stream gives nothing: such a frame is shown as it is
        *frame = fill.push(frame).unwrap_or(exact);
        transforms.push(match normalisation {
            Normalisation::Frame => ImageTransform::frame(view.image),
            Normalisation::PersonBox => boxes.push(time_s, frame)?,
        });
    }
    Ok((keypoints, transforms))
}

/// Keypoints of a view as a detector reports them.
fn detect(view: &View, noise: Option<&NoiseRecipe>, fps: f32, rng: &mut impl Rng) -> Vec<Keypoints17> {
    let Some(noise) = noise else { return exact_keypoints(&view.joints_px) };
    let keypoints = noise.apply(&view.joints_px, &view.torso_px(), view.image, fps, rng);
    if keypoints.iter().flatten().all(|k| k.is_missing()) {
        return exact_keypoints(&view.joints_px); // nobody trains on an empty picture
    }
    keypoints
}
