//! The graph branch of MambaGCN.

use super::LayerNorm;
use crate::{Context, Init, Tensor, WeightError, Weights, skeleton};

/// Two graph convolutions on the symmetric skeleton: `A_s (x W) + b`, ReLU and dropout after the first.
pub struct SkeletonGcn<T> {
    adjacency: T,        // (J, J), a buffer of the state dict
    layers: [(T, T); 2], // weight (C, C) applied as x W, bias (C)
    norm: LayerNorm<T>,
    dropout: f64,
}

impl<T> SkeletonGcn<T> {
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize, dropout: f64) -> Result<Self, WeightError> {
        let joints = skeleton::JOINTS;
        let layer = |i: usize| -> Result<(T, T), WeightError> {
            let at = weights.at("gcn_layers").at(i);
            Ok((
                at.parameter("weight", &[channels, channels], Init::xavier(channels, channels))?,
                at.parameter("bias", &[channels], Init::Constant(0.0))?,
            ))
        };
        Ok(Self {
            adjacency: weights.buffer("adj_matrix", &[joints, joints], &skeleton::symmetric_adjacency())?,
            layers: [layer(0)?, layer(1)?],
            norm: LayerNorm::new(&weights.at("norm"), channels)?,
            dropout,
        })
    }
}

impl<T: Tensor> SkeletonGcn<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    #[track_caller]
    pub fn forward(&self, x: &T, context: &Context) -> T {
        let convolve = |x: &T, (weight, bias): &(T, T)| x.matmul(weight).mix_joints(&self.adjacency).add(bias);
        let hidden = convolve(x, &self.layers[0]).relu().dropout(self.dropout, context);
        self.norm.forward(&convolve(&hidden, &self.layers[1]).add(x))
    }
}
