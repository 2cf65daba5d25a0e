//! MambaGCN, the third branch of a layer.

use crate::{
    Context, Init, MambaForm, MambaGcnConfig, Tensor, WeightError, Weights,
    layers::{GlobalMeanMamba, LayerNorm, Linear, Mamba, MambaWeights, SkeletonGcn, TemporalAttention},
    skeleton::JOINTS,
};

enum Mixer<T> {
    Selective(Mamba<T>),
    GlobalMean(GlobalMeanMamba<T>),
}

/// Mamba over time, each joint its own sequence; `norm(y + x)`.
struct MambaBranch<T> {
    temporal_model: Mixer<T>,
    norm: LayerNorm<T>,
}

impl<T> MambaBranch<T> {
    fn new(weights: &Weights<'_, T>, channels: usize, config: &MambaGcnConfig) -> Result<Self, WeightError> {
        let mixer = MambaWeights::new(&weights.at("temporal_model"), channels, config.d_state, config.d_conv)?;
        Ok(Self {
            temporal_model: match config.mamba {
                MambaForm::Selective => Mixer::Selective(Mamba(mixer)),
                MambaForm::GlobalMean => Mixer::GlobalMean(GlobalMeanMamba(mixer)),
            },
            norm: LayerNorm::new(&weights.at("norm"), channels)?,
        })
    }
}

impl<T: Tensor> MambaBranch<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    fn forward(&self, x: &T) -> T {
        let y = match &self.temporal_model {
            Mixer::Selective(mamba) => mamba.forward(&x.to_joint_sequences()).to_pose_sequences(JOINTS),
            // The original forgets the transpose: its sequences mix joints and time.
            Mixer::GlobalMean(mamba) => mamba
                .forward(&x.reshape_untransposed().merge_batch_and_joints()) // (B J, T, C)
                .split_batch_and_joints(JOINTS)
                .reshape_back_untransposed(),
        };
        self.norm.forward(&y.add(x))
    }
}

/// Weighs the branches by one number per branch and sample, made of the input's mean.
struct AdaptiveFusion<T> {
    weight_generator: [Linear<T>; 2],
    norm: LayerNorm<T>,
    branches: usize,
}

impl<T> AdaptiveFusion<T> {
    fn new(weights: &Weights<'_, T>, channels: usize, branches: usize) -> Result<Self, WeightError> {
        let generator = weights.at("weight_generator");
        let weight_generator =
            [Linear::new(&generator.at(0), channels, channels / 4)?, Linear::new(&generator.at(2), channels / 4, branches)?];
        // In every file of the original and never used: kept in the state dict, left out of the graph.
        let unused = weights.at("fusion_proj");
        unused.parameter("weight", &[channels, branches * channels], Init::fan_in(branches * channels))?;
        unused.parameter("bias", &[channels], Init::fan_in(branches * channels))?;
        Ok(Self { weight_generator, norm: LayerNorm::new(&weights.at("norm"), channels)?, branches })
    }
}

impl<T: Tensor> AdaptiveFusion<T> {
    /// x and each branch (B, T, J, C) -> (B, T, J, C).
    fn forward(&self, x: &T, branches: &[T]) -> T {
        let [to_hidden, to_weights] = &self.weight_generator;
        let weights = to_weights.forward(&to_hidden.forward(&x.mean_over_frames_and_joints()).relu()).softmax_last(); // (B, K)
        let weighted = match branches {
            [a, b] => {
                let [wa, wb] = weights.split_last([1; 2]); // (B, 1) each
                a.mul(&wa.expand_sample()).add(&b.mul(&wb.expand_sample()))
            }
            [a, b, c] => {
                let [wa, wb, wc] = weights.split_last([1; 3]);
                a.mul(&wa.expand_sample()).add(&b.mul(&wb.expand_sample())).add(&c.mul(&wc.expand_sample()))
            }
            _ => unreachable!("MambaGcn has {} branches: two, or three with attention", self.branches),
        };
        self.norm.forward(&weighted.add(x))
    }
}

/// Mamba over time, a graph convolution over the skeleton and, in the "full" variant, attention over time, fused.
pub struct MambaGcn<T> {
    mamba: MambaBranch<T>,
    gcn: SkeletonGcn<T>,
    attention: Option<TemporalAttention<T>>,
    fusion: AdaptiveFusion<T>,
    output_proj: [Linear<T>; 2],
    final_norm: LayerNorm<T>,
    dropout: f64,
}

impl<T> MambaGcn<T> {
    /// # Errors
    /// [`WeightError`].
    pub fn new(weights: &Weights<'_, T>, channels: usize, config: &MambaGcnConfig) -> Result<Self, WeightError> {
        let branches = weights.at("branches");
        let output = weights.at("output_proj");
        Ok(Self {
            mamba: MambaBranch::new(&branches.at("mamba"), channels, config)?,
            gcn: SkeletonGcn::new(&branches.at("gcn"), channels, config.dropout)?,
            attention: config
                .use_attention
                .then(|| TemporalAttention::new(&branches.at("attention"), channels, config.dropout))
                .transpose()?,
            fusion: AdaptiveFusion::new(&weights.at("fusion"), channels, if config.use_attention { 3 } else { 2 })?,
            output_proj: [Linear::new(&output.at(0), channels, channels)?, Linear::new(&output.at(3), channels, channels)?],
            final_norm: LayerNorm::new(&weights.at("final_norm"), channels)?,
            dropout: config.dropout,
        })
    }
}

impl<T: Tensor> MambaGcn<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    #[track_caller]
    pub fn forward(&self, x: &T, context: &Context) -> T {
        let mut branches = vec![self.mamba.forward(x), self.gcn.forward(x, context)];
        branches.extend(self.attention.iter().map(|attention| attention.forward(x, context)));
        let fused = self.fusion.forward(x, &branches);
        let hidden = self.output_proj[0].forward(&fused).relu().dropout(self.dropout, context);
        self.final_norm.forward(&self.output_proj[1].forward(&hidden).add(x))
    }
}
