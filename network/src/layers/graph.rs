//! MotionAGFormer's graph convolutions over joints and over frames.

use super::{BatchNorm, Linear};
use crate::{Axis, Context, Init, Tensor, WeightError, Weights, skeleton};

/// Which graph a convolution mixes along.
pub trait GraphConvolution<T>: Sized {
    /// (B, T, J, C) -> (B, T, J, C).
    fn forward(&self, x: &T, context: &Context) -> T;
}

/// What both have: `relu(x + BN(A_n V(x) + U(x)))`.
struct Convolution<T> {
    u: Linear<T>,
    v: Linear<T>,
    batch_norm: BatchNorm<T>,
}

impl<T> Convolution<T> {
    fn new(weights: &Weights<'_, T>, channels: usize, nodes: usize) -> Result<Self, WeightError> {
        let wide = Init::Normal { std: (2.0 / channels as f64).sqrt() };
        let linear = |name| Linear::with_init(&weights.at(name), channels, channels, wide, Init::fan_in(channels));
        Ok(Self { u: linear("U")?, v: linear("V")?, batch_norm: BatchNorm::new(&weights.at("batch_norm"), nodes)? })
    }
}

impl<T: Tensor> Convolution<T> {
    fn forward(&self, x: &T, axis: Axis, context: &Context, mix: impl FnOnce(&T) -> T) -> T {
        let aggregated = mix(&self.v.forward(x)).add(&self.u.forward(x));
        x.add(&aggregated.batch_norm(&self.batch_norm, axis, context)).relu()
    }
}

/// Over the joints of a frame, on MotionAGFormer's fixed directed list of neighbours.
pub struct JointGraph<T> {
    convolution: Convolution<T>,
    adjacency: T, // (J, J), D^-1/2 A D^-1/2
}

impl<T> JointGraph<T> {
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize) -> Result<Self, WeightError> {
        let joints = skeleton::JOINTS;
        Ok(Self {
            convolution: Convolution::new(weights, channels, joints)?,
            adjacency: weights.constant(&[joints, joints], &skeleton::motionagformer_adjacency())?,
        })
    }
}

impl<T: Tensor> GraphConvolution<T> for JointGraph<T> {
    fn forward(&self, x: &T, context: &Context) -> T {
        self.convolution.forward(x, Axis::Joints, context, |v| v.mix_joints(&self.adjacency))
    }
}

/// Over the frames of a joint: each frame's neighbours are the k most similar ones. T is fixed by the weights.
pub struct FrameGraph<T> {
    convolution: Convolution<T>,
    neighbours: usize,
}

impl<T> FrameGraph<T> {
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize, frames: usize, neighbours: usize) -> Result<Self, WeightError> {
        Ok(Self { convolution: Convolution::new(weights, channels, frames)?, neighbours })
    }
}

impl<T: Tensor> GraphConvolution<T> for FrameGraph<T> {
    fn forward(&self, x: &T, context: &Context) -> T {
        self.convolution.forward(x, Axis::Frames, context, |v| v.mix_frames_top_k(x, self.neighbours))
    }
}
