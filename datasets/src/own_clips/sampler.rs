//! Training samples of clips that a camera has seen, at a model's rate.

use pose::normalise::{self, Normalisation};
use pose::{Keypoint, KeypointClip, Keypoints17, Pose3};
use rand::Rng;

use super::{OwnClip, OwnClips};
use crate::Error;
use crate::camera::View;
use crate::clip_options::H36M;
use crate::noise::exact_keypoints;
use crate::random::{Stream, generator};
use crate::sample::{Sample, SampleSource};
use crate::sampler::{Gaps, fed_causally, fed_whole};

/// How [`RecordedSampler`] makes its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedOptions {
    /// Frames of a sample, T.
    pub n_frames: usize,
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// How pixels become input units.
    pub normalisation: Normalisation,
    /// Frames per second that clips are brought to.
    pub fps: f64,
    /// One sample per so many frames and epoch; a third of `n_frames` when absent.
    pub stride: Option<usize>,
    /// Probability of a mirrored sample.
    pub flip: f32,
    /// For a causal model: fed as in a stream, with times in which nobody is seen.
    pub causal: Option<Gaps>,
    /// Everything drawn follows from it.
    pub seed: u64,
}

/// Windows of [`OwnClips`], at a random place within their stretch in each epoch.
#[derive(Clone, Debug)]
pub struct RecordedSampler {
    clips: Vec<OwnClip>,
    /// Clip and first frame of each stretch.
    stretches: Vec<(usize, usize)>,
    stride: usize,
    options: RecordedOptions,
}

impl RecordedSampler {
    /// # Errors
    /// Options out of range, a clip that cannot be brought to the rate.
    pub fn new(set: &OwnClips, options: RecordedOptions) -> Result<Self, Error> {
        let RecordedOptions { n_frames, dim_in, fps, flip, .. } = options;
        if !(1..=1 << 16).contains(&n_frames) || !matches!(dim_in, 2 | 3) || !(0.0..=1.0).contains(&flip) || options.stride == Some(0) {
            let problem = format!("n_frames is {n_frames}, dim_in {dim_in}, flip {flip}, stride {:?}: out of range", options.stride);
            return Err(Error::options(problem));
        }
        let clips: Vec<OwnClip> = set.clips().iter().map(|clip| at_rate(clip, fps)).collect::<Result<_, _>>()?;
        let stride = options.stride.unwrap_or(n_frames / 3).max(1);
        let of = |(clip, own): (usize, &OwnClip)| {
            (0..own.keypoints.frames.len()).step_by(stride).map(move |start| (clip, start)).collect::<Vec<_>>()
        };
        let stretches = clips.iter().enumerate().flat_map(of).collect();
        Ok(Self { clips, stretches, stride, options })
    }
}

/// A clip at another rate. Gaps stay gaps.
fn at_rate(clip: &OwnClip, fps: f64) -> Result<OwnClip, Error> {
    let times_s = pose::resample::uniform_times(&clip.keypoints.times_s, fps)?;
    let own_s = &clip.keypoints.times_s;
    let keypoints = KeypointClip {
        frames: pose::resample::keypoints(&clip.keypoints.frames, own_s, &times_s)?,
        image: clip.keypoints.image,
        times_s: times_s.clone(),
    };
    let camera_mm: Vec<Pose3> = pose::resample::poses(&clip.view.camera_mm, own_s, &times_s)?;
    let project = |p: [f32; 3]| clip.view.intrinsics.project(p).unwrap_or_default(); // between points in front of the camera
    let joints_px = camera_mm.iter().map(|pose| pose.map(project)).collect();
    Ok(OwnClip { keypoints, view: View { joints_px, camera_mm, ..clip.view.clone() }, ..clip.clone() })
}

impl SampleSource for RecordedSampler {
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
        let (clip, stretch) = self.stretches[index];
        let clip = &self.clips[clip];
        let (all, n) = (clip.keypoints.frames.len(), options.n_frames);
        let middle = stretch + (rng.random::<f32>() * self.stride as f32) as usize;
        let start = middle.saturating_sub(n / 2).min(all.saturating_sub(n));
        let flipped = rng.random::<f32>() < options.flip;
        // a clip that is shorter than a sample: its last frame is held
        let frames: Vec<usize> = (start..start + n).map(|t| t.min(all - 1)).collect();
        let view = View {
            joints_px: frames.iter().map(|&t| clip.view.joints_px[t]).collect(),
            camera_mm: frames.iter().map(|&t| clip.view.camera_mm[t]).collect(),
            ..clip.view.clone()
        };
        let mut seen: Vec<Keypoints17> = frames.iter().map(|&t| clip.keypoints.frames[t]).collect();
        if seen.iter().flatten().all(Keypoint::is_missing) {
            seen = exact_keypoints(&view.joints_px); // nobody trains on an empty picture
        }
        let times_s: Vec<f64> = (0..n).map(|t| t as f64 / options.fps).collect();
        let (keypoints, transforms) = match &options.causal {
            None => fed_whole(seen, &times_s, &view, options.normalisation)?,
            Some(gaps) => fed_causally(seen, &times_s, &view, options.normalisation, gaps, &mut rng)?,
        };
        let mut input = Vec::with_capacity(n * pose::JOINTS * options.dim_in);
        let mut label = Vec::with_capacity(n);
        for (t, (frame, transform)) in keypoints.iter().zip(&transforms).enumerate() {
            input.extend(normalise::network_input(&[*frame], transform, options.dim_in)?);
            label.push(view.pose25(t, transform)?);
        }
        let mut label = pose::values_from_poses(&label);
        if flipped {
            (input, label) = (H36M.flip(&input, options.dim_in), H36M.flip(&label, 3));
        }
        Ok(Sample { input, label, truth: None })
    }
}
