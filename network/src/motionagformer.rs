//! MotionAGFormer (Mehraban, Adeli and Taati, WACV 2024), with MambaGCN as an optional third branch.

use crate::{
    Axis, Context, Init, LifterConfig, Tensor, WeightError, Weights,
    layers::{Attention, FrameGraph, GraphConvolution, JointGraph, LayerNorm, Linear, Mlp},
    mamba_gcn::MambaGcn,
};

enum Mixer<T> {
    Attention(Attention<T>),
    Joints(JointGraph<T>),
    Frames(FrameGraph<T>),
}

/// `x + layer_scale_1 * mixer(norm1(x))`, then `x + layer_scale_2 * mlp(norm2(x))`.
struct Block<T> {
    layer_scale_1: T, // (C)
    layer_scale_2: T,
    norm1: LayerNorm<T>,
    mixer: Mixer<T>,
    norm2: LayerNorm<T>,
    mlp: Mlp<T>,
}

impl<T> Block<T> {
    fn new(
        weights: &Weights<'_, T>,
        config: &LifterConfig,
        mixer: impl FnOnce(&Weights<'_, T>) -> Result<Mixer<T>, WeightError>,
    ) -> Result<Self, WeightError> {
        let channels = config.dim_feat;
        let scale = |name| weights.parameter(name, &[channels], Init::Constant(1e-5));
        Ok(Self {
            layer_scale_1: scale("layer_scale_1")?,
            layer_scale_2: scale("layer_scale_2")?,
            norm1: LayerNorm::new(&weights.at("norm1"), channels)?,
            mixer: mixer(&weights.at("mixer"))?,
            norm2: LayerNorm::new(&weights.at("norm2"), channels)?,
            mlp: Mlp::new(&weights.at("mlp"), channels, config.mlp_ratio * channels, config.act_layer)?,
        })
    }
}

impl<T: Tensor> Block<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    fn forward(&self, x: &T, context: &Context) -> T {
        let normed = self.norm1.forward(x);
        let mixed = match &self.mixer {
            Mixer::Attention(attention) => attention.forward(&normed, context),
            Mixer::Joints(graph) => graph.forward(&normed, context),
            Mixer::Frames(graph) => graph.forward(&normed, context),
        };
        let x = x.add(&mixed.mul(&self.layer_scale_1));
        x.add(&self.mlp.forward(&self.norm2.forward(&x)).mul(&self.layer_scale_2))
    }
}

/// Attention, graph and (optional) MambaGCN branches side by side, fused by weights made of their outputs.
struct Layer<T> {
    att_spatial: Block<T>,
    att_temporal: Block<T>,
    graph_spatial: Block<T>,
    graph_temporal: Block<T>,
    mamba_gcn: Option<MambaGcn<T>>,
    fusion: Linear<T>,
}

impl<T> Layer<T> {
    fn new(weights: &Weights<'_, T>, config: &LifterConfig) -> Result<Self, WeightError> {
        let channels = config.dim_feat;
        let attention = |name, axis| {
            Block::new(&weights.at(name), config, |w| Ok(Mixer::Attention(Attention::new(w, channels, config.num_heads, axis)?)))
        };
        let att_spatial = attention("att_spatial", Axis::Joints)?;
        let att_temporal = attention("att_temporal", Axis::Frames)?;
        let graph_spatial = Block::new(&weights.at("graph_spatial"), config, |w| Ok(Mixer::Joints(JointGraph::new(w, channels)?)))?;
        let graph_temporal = Block::new(&weights.at("graph_temporal"), config, |w| {
            Ok(Mixer::Frames(FrameGraph::new(w, channels, config.n_frames, config.neighbour_num)?))
        })?;
        let mamba_gcn = config.mamba_gcn.as_ref().map(|c| MambaGcn::new(&weights.at("mamba_gcn"), channels, c)).transpose()?;
        let branches = if mamba_gcn.is_some() { 3 } else { 2 };
        let fusion = Linear::with_init(
            &weights.at("fusion"),
            branches * channels,
            branches,
            Init::Constant(0.0),
            Init::Constant(1.0 / branches as f64),
        )?;
        Ok(Self { att_spatial, att_temporal, graph_spatial, graph_temporal, mamba_gcn, fusion })
    }
}

impl<T: Tensor> Layer<T> {
    /// (B, T, J, C) -> (B, T, J, C).
    fn forward(&self, x: &T, context: &Context) -> T {
        let attention = self.att_temporal.forward(&self.att_spatial.forward(x, context), context);
        let graph = self.graph_temporal.forward(&self.graph_spatial.forward(x, context), context);
        match &self.mamba_gcn {
            None => {
                let alpha = self.fusion.forward(&T::concat_last(&[&attention, &graph])).softmax_last(); // (B, T, J, 2)
                let [a, g] = alpha.split_last([1; 2]); // (B, T, J, 1) each
                attention.mul(&a).add(&graph.mul(&g))
            }
            Some(mamba_gcn) => {
                let mamba = mamba_gcn.forward(x, context);
                let alpha = self.fusion.forward(&T::concat_last(&[&attention, &graph, &mamba])).softmax_last();
                let [a, g, m] = alpha.split_last([1; 3]);
                attention.mul(&a).add(&graph.mul(&g)).add(&mamba.mul(&m))
            }
        }
    }
}

/// The lifter: 2D keypoints of T frames to the 2.5D pose of each.
pub struct MotionAgFormer<T> {
    pos_embed: T, // (1, J, C)
    joints_embed: Linear<T>,
    norm: LayerNorm<T>,
    layers: Vec<Layer<T>>,
    rep_logit: Linear<T>,
    head: Linear<T>,
}

impl<T> MotionAgFormer<T> {
    /// Asks `weights` for every tensor of the state dict, in the reference's order.
    ///
    /// # Errors
    /// [`WeightError`] for the first one that is missing or of another shape.
    pub fn new(weights: &Weights<'_, T>, config: &LifterConfig) -> Result<Self, WeightError> {
        let channels = config.dim_feat;
        Ok(Self {
            pos_embed: weights.parameter("pos_embed", &[1, config.num_joints, channels], Init::Constant(0.0))?,
            joints_embed: Linear::new(&weights.at("joints_embed"), config.dim_in, channels)?,
            norm: LayerNorm::new(&weights.at("norm"), channels)?,
            layers: (0..config.n_layers).map(|i| Layer::new(&weights.at("layers").at(i), config)).collect::<Result<_, _>>()?,
            rep_logit: Linear::new(&weights.at("rep_logit").at("fc"), channels, config.dim_rep)?,
            head: Linear::new(&weights.at("head"), config.dim_rep, config.dim_out)?,
        })
    }
}

impl<T: Tensor> MotionAgFormer<T> {
    /// x (B, T, J, dim_in) in normalised image units -> (B, T, J, 3): 2.5D, see `pose::world`.
    #[track_caller]
    pub fn forward(&self, x: &T, context: &Context) -> T {
        let mut x = self.embed(x);
        for i in 0..self.layers.len() {
            x = self.layer(i, &x, context);
        }
        self.read_out(&x)
    }

    /// The first stage alone: (B, T, J, dim_in) -> (B, T, J, C).
    pub fn embed(&self, x: &T) -> T {
        self.joints_embed.forward(x).add(&self.pos_embed)
    }

    /// How many layers there are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// One layer alone: (B, T, J, C) -> (B, T, J, C). With a discontinuous top-k graph inside, engines can only be
    /// compared layer by layer on the same input.
    pub fn layer(&self, index: usize, x: &T, context: &Context) -> T {
        self.layers[index].forward(x, context)
    }

    /// The last stage alone: (B, T, J, C) -> (B, T, J, 3).
    pub fn read_out(&self, x: &T) -> T {
        self.head.forward(&self.rep_logit.forward(&self.norm.forward(x)).tanh())
    }
}
