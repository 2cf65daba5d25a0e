//! The one trait that layers compute with.

use crate::layers::BatchNorm;

/// How a forward pass is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Dropout is active.
    pub training: bool,
    /// Batch normalisation uses (and updates) the batch's statistics instead of the running ones.
    pub batch_statistics: bool,
}

impl Context {
    /// Evaluation: running statistics, no dropout.
    pub const EVALUATION: Self = Self { training: false, batch_statistics: false };
    /// Training: batch statistics, dropout.
    pub const TRAINING: Self = Self { training: true, batch_statistics: true };
    /// Training on too little data to take statistics from: dropout, running statistics.
    pub const RUNNING_STATISTICS: Self = Self { training: true, batch_statistics: false };
}

/// One of the two axes that a mixer of a pose sequence `(B, T, J, C)` works along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Along time, within a joint: axis T.
    Frames,
    /// Along the skeleton, within a frame: axis J.
    Joints,
}

/// Inputs of [`Tensor::selective_scan`], by the names of the field. S sequences, L frames, D channels, N states.
pub struct SelectiveScan<'a, T> {
    /// (S, L, D)
    pub u: &'a T,
    /// (S, L, D), before bias and softplus
    pub delta: &'a T,
    /// (D, N), negative
    pub a: &'a T,
    /// (S, L, N)
    pub b: &'a T,
    /// (S, L, N)
    pub c: &'a T,
    /// Skip connection, (D)
    pub d: Option<&'a T>,
    /// Gate, (S, L, D): the output is multiplied by silu(z)
    pub z: Option<&'a T>,
    /// Added to delta before the softplus, (D)
    pub delta_bias: Option<&'a T>,
    /// (S, D, N); zero when absent
    pub initial_state: Option<&'a T>,
    /// Whether delta passes through softplus
    pub delta_softplus: bool,
}

/// A value that a layer computes with: an eager tensor (`trainer`) or a node of a graph (`export`).
///
/// Layers name axes and never read sizes, so batch (and, where the layer allows it, time) stay dynamic.
/// Shapes: B batch, T frames, J joints, C channels; S = B J sequences of L = T frames.
/// Operations are coarse, so that each side picks its fastest form. Shape errors are bugs of a layer or of weights
/// that were not checked at load; implementations may panic on them.
pub trait Tensor: Clone {
    /// `self + other`, broadcast.
    #[track_caller]
    fn add(&self, other: &Self) -> Self;
    /// `self * other`, broadcast.
    #[track_caller]
    fn mul(&self, other: &Self) -> Self;
    /// `-self`.
    fn neg(&self) -> Self;
    /// e to the power of each element.
    fn exp(&self) -> Self;
    /// max(x, 0).
    fn relu(&self) -> Self;
    /// x Phi(x) with the exact error function.
    fn gelu(&self) -> Self;
    /// x sigmoid(x).
    fn silu(&self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(&self) -> Self;
    /// Softmax over the last axis.
    fn softmax_last(&self) -> Self;
    /// Normalisation over the last axis (C), then `* weight + bias`, both (C).
    #[track_caller]
    fn layer_norm(&self, weight: &Self, bias: &Self, eps: f64) -> Self;
    /// `x weight^T + bias` over the last axis: weight (out, in), bias (out).
    #[track_caller]
    fn linear(&self, weight: &Self, bias: Option<&Self>) -> Self;
    /// `x weight` over the last axis: weight (in, out).
    #[track_caller]
    fn matmul(&self, weight: &Self) -> Self;
    /// Cuts the last axis into parts of the given sizes.
    #[track_caller]
    fn split_last<const N: usize>(&self, sizes: [usize; N]) -> [Self; N];
    /// Joins along the last axis.
    #[track_caller]
    fn concat_last(parts: &[&Self]) -> Self;
    /// In training, zeroes elements with this probability and scales the rest by 1 / (1 - p); else the identity.
    fn dropout(&self, probability: f64, context: &Context) -> Self;

    /// Multi-head attention along `axis`: q, k, v (B, T, J, C) -> (B, T, J, C); heads split C evenly, scale
    /// (C / heads)^-1/2, dropout on the attention weights in training.
    #[track_caller]
    fn attention(q: &Self, k: &Self, v: &Self, heads: usize, axis: Axis, dropout: f64, context: &Context) -> Self;
    /// `y[b,t,i,:] = sum_j matrix[i,j] x[b,t,j,:]`: x (B, T, J, C), matrix (J, J).
    #[track_caller]
    fn mix_joints(&self, matrix: &Self) -> Self;
    /// Graph convolution over time on a graph made of the data, within a joint. `self` are the values and `features`
    /// the nodes' features, both (B, T, J, C). S = features features^T (T, T); A_ij = 1 where S_ij is at least the
    /// k-th largest of row i; the result is `D^-1/2 A D^-1/2 self`, D the row sums of A. No gradient through A.
    #[track_caller]
    fn mix_frames_top_k(&self, features: &Self, k: usize) -> Self;
    /// `BatchNorm1d` whose features are the nodes of `axis`; statistics over all the others. x (B, T, J, C).
    /// In training uses the batch's statistics and updates the running ones (momentum 0.1) in place.
    #[track_caller]
    fn batch_norm(&self, norm: &BatchNorm<Self>, axis: Axis, context: &Context) -> Self;

    /// One sequence for each joint: (B, T, J, C) -> (B J, T, C).
    #[track_caller]
    fn to_joint_sequences(&self) -> Self;
    /// The inverse: (B J, T, C) -> (B, T, J, C).
    #[track_caller]
    fn to_pose_sequences(&self, joints: usize) -> Self;
    /// (B, T, J, C) -> (B, J, T, C) as a plain reshape of memory, which mixes joints and time: what the original
    /// MambaGCN computes. Never a transpose.
    #[track_caller]
    fn reshape_untransposed(&self) -> Self;
    /// The inverse of [`Self::reshape_untransposed`]: (B, J, T, C) -> (B, T, J, C), memory unchanged.
    #[track_caller]
    fn reshape_back_untransposed(&self) -> Self;
    /// (B, J, T, C) -> (B J, T, C).
    #[track_caller]
    fn merge_batch_and_joints(&self) -> Self;
    /// (B J, T, C) -> (B, J, T, C).
    #[track_caller]
    fn split_batch_and_joints(&self, joints: usize) -> Self;
    /// Mean over frames of sequences: (S, L, C) -> (S, 1, C).
    fn mean_over_sequence(&self) -> Self;
    /// Mean over frames and joints: (B, T, J, C) -> (B, C).
    fn mean_over_frames_and_joints(&self) -> Self;
    /// One number for each sample, ready to multiply a pose sequence: (B, 1) -> (B, 1, 1, 1).
    fn expand_sample(&self) -> Self;

    /// Depthwise causal convolution over L: x (S, L, E), weight (E, 1, K), bias (E). `state` (S, K-1, E) holds the
    /// inputs before the first frame, zero when absent. Returns y (S, L, E) and the state after the last frame.
    #[track_caller]
    fn causal_conv(&self, weight: &Self, bias: &Self, state: Option<&Self>) -> (Self, Self);
    /// The selective scan: y (S, L, D) and the last state (S, D, N).
    /// `h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t`, `y_t = C_t . h_t + D u_t`, `y_t *= silu(z_t)`
    /// (Gu and Dao, Mamba, 2023, eq. 2).
    #[track_caller]
    fn selective_scan(inputs: &SelectiveScan<'_, Self>) -> (Self, Self);
}
