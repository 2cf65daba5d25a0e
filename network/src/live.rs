//! The live family: a causal lifter whose cost for a frame is the same at every frame.
//!
//! Within a frame, joints are mixed by attention and by a graph convolution over the skeleton, fused joint by joint. Over
//! time each joint is a sequence of its own for a Mamba mixer, whose state is all that is remembered. So no layer sees the
//! future, none depends on the length of the sequence, and all are continuous in their input: no batch normalisation over
//! frames, no top-k graph. A sequence and one frame at a time are the same code, [`LiveLifter::forward`] from and to a
//! state.
//!
//! Look-ahead of k frames is a delay: what comes out at frame t is the pose of frame t - k, made with k more frames seen. A lifter is
//! trained for several k at once, a row of the head for each; an exported file has one.

use serde::{Deserialize, Serialize};

use crate::{
    Activation, Axis, ConfigError, Context, Init, Tensor, WeightError, Weights,
    config::within,
    layers::{Attention, LayerNorm, Linear, Mamba, MambaState, MambaWeights, Mlp, SkeletonGcn},
    skeleton::JOINTS,
};

/// What shapes a live lifter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveConfig {
    /// Layers.
    pub n_layers: usize,
    /// 3 (x, y, confidence) or 2 (x, y).
    pub dim_in: usize,
    /// Channels C.
    pub dim_feat: usize,
    /// Channels before the head.
    pub dim_rep: usize,
    /// Hidden size of the feed-forward blocks over C.
    pub mlp_ratio: usize,
    /// Heads of the attention over joints.
    pub num_heads: usize,
    /// States N of the scan.
    pub d_state: usize,
    /// Kernel of the causal convolution, frames.
    pub d_conv: usize,
    /// Every k, rising: the pose of frame t comes out at frame t + k.
    #[serde(default = "LiveConfig::no_look_ahead")]
    pub look_aheads: Vec<usize>,
    /// Activation of the feed-forward blocks.
    #[serde(default)]
    pub act_layer: Activation,
}

impl LiveConfig {
    /// The key that says so in a file, and its value.
    pub const FAMILY: (&str, &str) = ("family", "live");

    fn no_look_ahead() -> Vec<usize> {
        vec![0]
    }

    /// `live-xs`: 0.22 M parameters, and a head for each further look-ahead.
    #[must_use]
    pub fn xs() -> Self {
        Self {
            n_layers: 4,
            dim_in: 3,
            dim_feat: 48,
            dim_rep: 256,
            mlp_ratio: 2,
            num_heads: 8,
            d_state: 16,
            d_conv: 4,
            look_aheads: Self::no_look_ahead(),
            act_layer: Activation::Gelu,
        }
    }

    /// `live-s`: 0.56 M parameters, and a head for each further look-ahead.
    #[must_use]
    pub fn small() -> Self {
        Self { n_layers: 6, dim_feat: 64, ..Self::xs() }
    }

    /// Whether such a model can be built, at sizes that no hostile file can make absurd.
    ///
    /// # Errors
    /// Names the first key that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("n_layers", self.n_layers, 1, 256)?;
        within("dim_in", self.dim_in, 2, 3)?;
        within("dim_feat", self.dim_feat, 4, 4096)?;
        within("dim_rep", self.dim_rep, 1, 16384)?;
        within("mlp_ratio", self.mlp_ratio, 1, 16)?;
        within("num_heads", self.num_heads, 1, self.dim_feat)?;
        within("d_state", self.d_state, 1, 256)?;
        within("d_conv", self.d_conv, 2, 64)?; // a kernel of 1 would have an empty state
        within("look_aheads (how many)", self.look_aheads.len(), 1, 64)?;
        for &look_ahead in &self.look_aheads {
            within("look_aheads", look_ahead, 0, 1024)?;
        }
        if !self.look_aheads.is_sorted_by(|a, b| a < b) {
            let expected = "each above the one before it".to_owned();
            return Err(ConfigError { key: "look_aheads", found: format!("{:?}", self.look_aheads), expected });
        }
        if !self.dim_feat.is_multiple_of(self.num_heads) {
            let expected = format!("a divisor of dim_feat ({})", self.dim_feat);
            return Err(ConfigError { key: "num_heads", found: self.num_heads.to_string(), expected });
        }
        Ok(())
    }

    /// Shapes of what a layer remembers of each sequence (a joint of a person): inputs of the convolution (K - 1, E) and
    /// state of the scan (E, N).
    #[must_use]
    pub fn state_shapes(&self) -> [[usize; 2]; 2] {
        let inner = MambaWeights::<()>::EXPAND * self.dim_feat;
        [[self.d_conv - 1, inner], [inner, self.d_state]]
    }
}

/// What a live lifter remembers between frames: a [`MambaState`] for each layer, of S = B J sequences.
#[derive(Clone)]
pub struct LiveState<T>(pub Vec<MambaState<T>>);

/// Joints within a frame, then each joint over time.
struct Layer<T> {
    layer_scale_spatial: T, // (C)
    norm_spatial: LayerNorm<T>,
    attention: Attention<T>,
    graph: SkeletonGcn<T>,
    fusion: Linear<T>, // (2 C) -> (2)
    layer_scale_temporal: T,
    norm_temporal: LayerNorm<T>,
    mamba: Mamba<T>,
    layer_scale_mlp: T,
    norm_mlp: LayerNorm<T>,
    mlp: Mlp<T>,
}

impl<T> Layer<T> {
    fn new(weights: &Weights<'_, T>, config: &LiveConfig) -> Result<Self, WeightError> {
        let channels = config.dim_feat;
        let scale = |name| weights.parameter(name, &[channels], Init::Constant(0.1));
        let norm = |name| LayerNorm::new(&weights.at(name), channels);
        Ok(Self {
            layer_scale_spatial: scale("layer_scale_spatial")?,
            norm_spatial: norm("norm_spatial")?,
            attention: Attention::new(&weights.at("attention"), channels, config.num_heads, Axis::Joints)?,
            graph: SkeletonGcn::new(&weights.at("graph"), channels, 0.0)?,
            fusion: Linear::with_init(&weights.at("fusion"), 2 * channels, 2, Init::Constant(0.0), Init::Constant(0.5))?,
            layer_scale_temporal: scale("layer_scale_temporal")?,
            norm_temporal: norm("norm_temporal")?,
            mamba: Mamba(MambaWeights::new(&weights.at("mamba"), channels, config.d_state, config.d_conv)?),
            layer_scale_mlp: scale("layer_scale_mlp")?,
            norm_mlp: norm("norm_mlp")?,
            mlp: Mlp::new(&weights.at("mlp"), channels, config.mlp_ratio * channels, config.act_layer)?,
        })
    }
}

impl<T: Tensor> Layer<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    fn forward(&self, x: &T, state: Option<&MambaState<T>>, context: &Context) -> (T, MambaState<T>) {
        let x = self.within_frames(x, context);
        let sequences = self.norm_temporal.forward(&x).to_joint_sequences(); // (S, T, C)
        let (mixed, state) = self.mamba.step(&sequences, state);
        let x = x.add(&mixed.to_pose_sequences(JOINTS).mul(&self.layer_scale_temporal));
        let x = x.add(&self.mlp.forward(&self.norm_mlp.forward(&x)).mul(&self.layer_scale_mlp));
        (x, state)
    }

    /// Attention and graph side by side, weighed joint by joint.
    fn within_frames(&self, x: &T, context: &Context) -> T {
        let attention = x.add(&self.attention.forward(&self.norm_spatial.forward(x), context).mul(&self.layer_scale_spatial));
        let graph = self.graph.forward(x, context);
        let alpha = self.fusion.forward(&T::concat_last(&[&attention, &graph])).softmax_last(); // (B, T, J, 2)
        let [a, g] = alpha.split_last([1; 2]);
        attention.mul(&a).add(&graph.mul(&g))
    }
}

/// The lifter: 2D keypoints, frame by frame, to the 2.5D pose of each.
pub struct LiveLifter<T> {
    joints_embed: Linear<T>,
    pos_embed: T, // (1, J, C)
    layers: Vec<Layer<T>>,
    norm: LayerNorm<T>,
    rep_logit: Linear<T>,
    head: Linear<T>,
}

impl<T> LiveLifter<T> {
    /// Asks `weights` for every tensor of the state dict.
    ///
    /// # Errors
    /// [`WeightError`] for the first one that is missing or of another shape.
    pub fn new(weights: &Weights<'_, T>, config: &LiveConfig) -> Result<Self, WeightError> {
        let channels = config.dim_feat;
        Ok(Self {
            joints_embed: Linear::new(&weights.at("joints_embed"), config.dim_in, channels)?,
            pos_embed: weights.parameter("pos_embed", &[1, JOINTS, channels], Init::Normal { std: 0.02 })?,
            layers: (0..config.n_layers).map(|i| Layer::new(&weights.at("layers").at(i), config)).collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&weights.at("norm"), channels)?,
            rep_logit: Linear::new(&weights.at("rep_logit").at("fc"), channels, config.dim_rep)?,
            head: Linear::new(&weights.at("head"), config.dim_rep, 3 * config.look_aheads.len())?,
        })
    }
}

impl<T: Tensor> LiveLifter<T> {
    /// x (B, T, J, dim_in), the frames after those that made `state` (from the first frame where there is none), in
    /// normalised image units -> (B, T, J, 3 K) and the state after the last frame. Of T frames at once or in any pieces the
    /// result is the same. At frame t stand, for each k of [`LiveConfig::look_aheads`], x, y and z of the 2.5D pose of frame
    /// max(t - k, 0), in the units of that frame.
    #[track_caller]
    pub fn forward(&self, x: &T, state: Option<&LiveState<T>>, context: &Context) -> (T, LiveState<T>) {
        let mut x = self.joints_embed.forward(x).add(&self.pos_embed);
        let mut states = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let (y, after) = layer.forward(&x, state.map(|s| &s.0[i]), context);
            x = y;
            states.push(after);
        }
        (self.head.forward(&self.rep_logit.forward(&self.norm.forward(&x)).tanh()), LiveState(states))
    }
}
