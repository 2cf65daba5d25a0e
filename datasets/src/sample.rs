//! What a training step takes, whichever data set it comes from.

use pose::normalise::ImageTransform;
use rand::seq::SliceRandom;

use crate::Error;
use crate::camera::View;
use crate::random::{Stream, generator};

/// One clip for training. T frames of 17 joints.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Network input, (T, 17, dim_in) row-major: x, y and, where dim_in is 3, the confidence.
    pub input: Vec<f32>,
    /// 2.5D to be predicted, (T, 17, 3) row-major, root-relative, in the units of the input.
    pub label: Vec<f32>,
    /// What the sample was made from, where the data set knows it.
    pub truth: Option<Truth>,
}

/// Where a sample comes from: enough to turn predictions into millimetres and compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Pixels to the units of input and label, frame by frame.
    pub transforms: Vec<ImageTransform>,
    /// The camera, the true pixels and the camera-space joints of the T frames.
    pub view: View,
    /// Frames per second of the sample.
    pub fps: f32,
}

/// Samples side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// (B, T, 17, dim_in) row-major.
    pub input: Vec<f32>,
    /// (B, T, 17, 3) row-major.
    pub label: Vec<f32>,
    /// B.
    pub samples: usize,
    /// T.
    pub frames: usize,
    /// Channels of the input.
    pub dim_in: usize,
    /// Which samples these are: with the epoch, enough to make them again (a NaN loss names its origin so).
    pub indices: Vec<usize>,
    /// Epoch that they were drawn for.
    pub epoch: u64,
}

/// A data set that training draws from. Samples are numbered, and sample `index` of an epoch is always the same: no order of calls, no
/// number of threads changes it.
pub trait SampleSource: Send + Sync {
    /// Samples per epoch.
    fn len(&self) -> usize;

    /// Whether there is nothing to draw.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frames of each sample.
    fn frames(&self) -> usize;

    /// Channels of the input, 2 or 3.
    fn dim_in(&self) -> usize;

    /// Seed of the order, and of whatever else is drawn.
    fn seed(&self) -> u64;

    /// Sample `index` of an epoch; `index` is below [`SampleSource::len`].
    ///
    /// # Errors
    /// A file that cannot be read, or a motion that no camera sees.
    fn sample(&self, epoch: u64, index: usize) -> Result<Sample, Error>;

    /// The order in which an epoch takes its samples: each once.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut generator(self.seed(), Stream::Order, epoch, 0));
        order
    }

    /// The samples of these indices, side by side.
    ///
    /// # Errors
    /// That of the first sample that fails.
    fn batch(&self, epoch: u64, indices: &[usize]) -> Result<Batch, Error> {
        let (frames, dim_in) = (self.frames(), self.dim_in());
        let values = indices.len() * frames * pose::JOINTS;
        let (mut input, mut label) = (Vec::with_capacity(values * dim_in), Vec::with_capacity(values * 3));
        for &index in indices {
            let sample = self.sample(epoch, index)?;
            input.extend_from_slice(&sample.input);
            label.extend_from_slice(&sample.label);
        }
        Ok(Batch { input, label, samples: indices.len(), frames, dim_in, indices: indices.to_vec(), epoch })
    }
}
