//! Multi-head self-attention.

use super::{LayerNorm, Linear};
use crate::{Axis, Context, Tensor, WeightError, Weights};

/// Attention of MotionAGFormer along one axis: `qkv` without bias, laid out (3, heads, C / heads), then `proj`.
pub struct Attention<T> {
    qkv: Linear<T>,
    proj: Linear<T>,
    channels: usize,
    heads: usize,
    axis: Axis,
}

impl<T> Attention<T> {
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize, heads: usize, axis: Axis) -> Result<Self, WeightError> {
        let proj = Linear::new(&weights.at("proj"), channels, channels)?; // registered before qkv
        let qkv = Linear::without_bias(&weights.at("qkv"), channels, 3 * channels)?;
        Ok(Self { qkv, proj, channels, heads, axis })
    }
}

impl<T: Tensor> Attention<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    #[track_caller]
    pub fn forward(&self, x: &T, context: &Context) -> T {
        let [q, k, v] = self.qkv.forward(x).split_last([self.channels; 3]); // (B, T, J, C) each
        self.proj.forward(&T::attention(&q, &k, &v, self.heads, self.axis, 0.0, context))
    }
}

/// The attention branch inside MambaGCN ("full" variant): over T, 8 heads, on sequences that the original cuts by a
/// plain reshape (B, T, J, C) -> (B J, T, C). Both its forms keep that, and so do we.
pub struct TemporalAttention<T> {
    q_proj: Linear<T>,
    k_proj: Linear<T>,
    v_proj: Linear<T>,
    out_proj: Linear<T>,
    norm: LayerNorm<T>,
    dropout: f64,
}

impl<T> TemporalAttention<T> {
    const HEADS: usize = 8;

    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize, dropout: f64) -> Result<Self, WeightError> {
        let projection = |name| Linear::without_bias(&weights.at(name), channels, channels);
        Ok(Self {
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            norm: LayerNorm::new(&weights.at("norm"), channels)?,
            dropout,
        })
    }
}

impl<T: Tensor> TemporalAttention<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    #[track_caller]
    pub fn forward(&self, x: &T, context: &Context) -> T {
        let sequences = x.reshape_untransposed(); // (B, J, T, C): "frames" are now on axis 2
        let (q, k, v) = (self.q_proj.forward(&sequences), self.k_proj.forward(&sequences), self.v_proj.forward(&sequences));
        // Axis::Joints is the third axis, where T stands now.
        let mixed = T::attention(&q, &k, &v, Self::HEADS, Axis::Joints, self.dropout, context);
        let out = self.out_proj.forward(&mixed).reshape_back_untransposed(); // (B, T, J, C)
        self.norm.forward(&out.add(x))
    }
}
