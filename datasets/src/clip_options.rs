//! What every set of ready-made clips does with a clip on its way to training.

use pose::{JOINTS, skeleton};
use rand::Rng;

use crate::Error;
use crate::random::{Stream, generator};
use crate::sample::Sample;

/// Channels of a clip as it is kept: x, y, confidence of the input; x, y, z of the label.
const CHANNELS: usize = 3;

/// How a set of clips ([`crate::ClipFolder`], [`crate::MotionBertClips`], [`crate::Mpi3dhpClips`]) makes samples of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipOptions {
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// Whether the root of each frame is taken off the label.
    pub root_relative: bool,
    /// Probability of a mirrored sample; 0.5 in the references' training, 0 for evaluation.
    pub flip: f32,
    /// What flips, the order and the resampling of short videos follow from.
    pub seed: u64,
}

impl ClipOptions {
    /// The references' training: x, y, confidence, root-relative labels, every other sample mirrored.
    pub fn training(seed: u64) -> Self {
        Self { dim_in: 3, root_relative: true, flip: 0.5, seed }
    }

    /// The clips as they are: x, y, confidence, root-relative labels, none mirrored.
    pub fn evaluation() -> Self {
        Self { dim_in: 3, root_relative: true, flip: 0.0, seed: 0 }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if !matches!(self.dim_in, 2 | 3) || !(0.0..=1.0).contains(&self.flip) {
            let problem = format!("dim_in is {} and flip is {}: expected 2 or 3, and a probability from 0 to 1", self.dim_in, self.flip);
            return Err(Error::options(problem));
        }
        Ok(())
    }

    /// The sample of a clip whose `input` and `label` are (T, 17, 3) row-major, `label` not root-relative.
    pub(crate) fn sample(&self, joints: &JointOrder, input: Vec<f32>, mut label: Vec<f32>, epoch: u64, index: usize) -> Sample {
        let mut input = with_channels(input, self.dim_in);
        if self.root_relative {
            for frame in label.chunks_exact_mut(JOINTS * CHANNELS) {
                let root: [f32; CHANNELS] = std::array::from_fn(|c| frame[joints.root * CHANNELS + c]);
                frame.as_chunks_mut::<CHANNELS>().0.iter_mut().for_each(|joint| (0..CHANNELS).for_each(|c| joint[c] -= root[c]));
            }
        }
        let mut rng = generator(self.seed, Stream::Sample, epoch, index as u64);
        if rng.random::<f32>() < self.flip {
            (input, label) = (joints.flip(&input, self.dim_in), joints.flip(&label, CHANNELS));
        }
        Sample { input, label, truth: None }
    }
}

/// (T, 17, 3) as (T, 17, dim_in).
pub(crate) fn with_channels(input: Vec<f32>, dim_in: usize) -> Vec<f32> {
    if dim_in == CHANNELS {
        return input;
    }
    input.as_chunks::<CHANNELS>().0.iter().flat_map(|joint| &joint[..dim_in]).copied().collect()
}

/// What a mirror and a root are in one skeleton of 17 joints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JointOrder {
    /// The joint that others are relative to.
    pub root: usize,
    pub left: [usize; 6],
    /// In the order of their twins in `left`.
    pub right: [usize; 6],
}

/// Human3.6M.
pub(crate) const H36M: JointOrder = JointOrder { root: pose::ROOT, left: skeleton::LEFT, right: skeleton::RIGHT };

impl JointOrder {
    /// Values (T, 17, channels) of the mirrored picture: x negated, left and right swapped.
    pub fn flip(&self, values: &[f32], channels: usize) -> Vec<f32> {
        let mut source: [usize; JOINTS] = std::array::from_fn(|j| j);
        for (left, right) in self.left.into_iter().zip(self.right) {
            (source[left], source[right]) = (right, left);
        }
        let mut flipped = Vec::with_capacity(values.len());
        for frame in values.chunks_exact(JOINTS * channels) {
            for joint in source.map(|j| &frame[j * channels..(j + 1) * channels]) {
                flipped.push(-joint[0]);
                flipped.extend_from_slice(&joint[1..]);
            }
        }
        flipped
    }
}
